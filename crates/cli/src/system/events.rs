//! `coracle events`.

use std::io::{self, Write as _};

use clap::Args;
use engine::{Engine, events::Event, names::short_id, process::wall_clock_ns};
use serde_json::{Value, json};

use crate::{
    containers::logs::time,
    filters::{self, Filter},
    output::{format::InspectFormat, report, table::visible},
};

#[derive(Debug, Args)]
pub(crate) struct EventsFlags {
    /// Tell what happened since then, as in 10m, 2026-11-23T12:00:00Z or seconds since 1970; then go on
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Tell what happens until then, and end
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Only events with type=KIND, event=ACTION, container=NAME, image=NAME, volume=NAME or label=KEY[=VALUE]
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<Filter>,
    /// json (one object a line), or a template, as in '{{.Action}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<InspectFormat>,
}

/// Tells what happens, a line each, as it happens.
pub(crate) fn events(engine: &Engine, flags: &EventsFlags) -> anyhow::Result<()> {
    let now = wall_clock_ns();
    let mut options = filters::of_events(&flags.filter)?;
    options.since = flags.since.as_deref().map(|text| time("since", text, now)).transpose()?;
    options.until = flags.until.as_deref().map(|text| time("until", text, now)).transpose()?;
    let mut out = io::stdout().lock();
    for event in engine.events(&options)? {
        let event = event?;
        let line = match &flags.format {
            None => text(&event),
            Some(InspectFormat::Json) => json_of(&event).to_string(),
            Some(InspectFormat::Lines(template)) => template.render(&fields(&event))?,
        };
        writeln!(out, "{line}").and_then(|()| out.flush()).map_err(report::own_pipe)?;
    }
    Ok(())
}

/// `2026-11-23T12:00:00.123456789Z container start 0123… (image=busybox, name=web)`.
fn text(event: &Event) -> String {
    let attributes: Vec<_> = event.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let attributes = if attributes.is_empty() { String::new() } else { format!(" ({})", attributes.join(", ")) };
    visible(&format!("{} {} {} {}{attributes}", local(event.at), event.kind.as_str(), event.action, event.id))
}

/// A moment of this place's time, as Go writes it with nanoseconds.
fn local(at: i64) -> String {
    let Ok(time) = jiff::Timestamp::from_nanosecond(i128::from(at)) else { return String::new() };
    let zoned = time.to_zoned(jiff::tz::TimeZone::system());
    let zone = if zoned.offset().is_zero() { "Z".to_owned() } else { zoned.strftime("%:z").to_string() };
    format!("{}{zone}", zoned.strftime("%Y-%m-%dT%H:%M:%S.%9f"))
}

/// As Docker's API has it.
fn json_of(event: &Event) -> Value {
    let mut object = json!({
        "Type": event.kind.as_str(),
        "Action": event.action,
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "scope": "local",
        "time": event.at.div_euclid(1_000_000_000),
        "timeNano": event.at,
    });
    if event.kind.as_str() == "container" {
        object["status"] = event.action.as_str().into();
        object["id"] = event.id.as_str().into();
        object["from"] = event.attributes.get("image").map_or("", String::as_str).into();
    }
    object
}

/// What templates can name.
fn fields(event: &Event) -> Value {
    json!({
        "Type": event.kind.as_str(),
        "Action": event.action,
        "Status": event.action,
        "ID": event.id,
        "ShortID": short_id(&event.id),
        "From": event.attributes.get("image").map_or("", String::as_str),
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "Scope": "local",
        "Time": event.at.div_euclid(1_000_000_000),
        "TimeNano": event.at,
    })
}

#[cfg(test)]
mod tests {
    use engine::events::EventKind;

    use super::*;

    #[test]
    fn events_in_docker_s_words() {
        let event = Event {
            seq: 1,
            at: 1_500_000_000,
            kind: EventKind::Container,
            action: "die".to_owned(),
            id: "0123456789abcdef".to_owned(),
            attributes: [("exitCode", "0"), ("image", "busybox")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        };
        assert!(text(&event).ends_with(" container die 0123456789abcdef (exitCode=0, image=busybox)"));
        let json = json_of(&event);
        assert_eq!((json["from"].as_str(), json["time"].as_i64()), (Some("busybox"), Some(1)));
        assert_eq!(fields(&event)["Actor"]["Attributes"]["exitCode"], "0");
    }
}
