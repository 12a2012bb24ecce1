//! What `ps` says of a container's state, in Docker's words.

use engine::{ContainerRecord, ContainerState, list::health};

use crate::output::table;

/// `Up 5 minutes (healthy)`, `Exited (0) 2 hours ago`, `Restarting (1) 5 seconds ago`.
pub(crate) fn status(record: &ContainerRecord, now: i64) -> String {
    let up = || format!("Up {}", table::since(record.started_at.unwrap_or(now), now));
    let ended = |how: &str| {
        let ago = table::since(record.finished_at.unwrap_or(now), now);
        format!("{how} ({}) {ago} ago", record.exit_code.unwrap_or_default())
    };
    match record.state {
        ContainerState::Created => "Created".to_owned(),
        ContainerState::Running => match health(record) {
            "starting" => format!("{} (health: starting)", up()),
            known @ ("healthy" | "unhealthy") => format!("{} ({known})", up()),
            _ => up(),
        },
        ContainerState::Paused => format!("{} (Paused)", up()),
        ContainerState::Restarting => ended("Restarting"),
        ContainerState::Exited => ended("Exited"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_of_docker() {
        let minute = 60_000_000_000;
        let text = |state, health: Option<&str>| {
            let mut record = ContainerRecord::new("i".into(), "n".into(), "image".into(), "ref".into(), 0);
            record.state = state;
            record.started_at = Some(0);
            record.finished_at = Some(3 * minute);
            record.exit_code = Some(1);
            record.health = health.map(|status| json!({ "Status": status }));
            status(&record, 5 * minute)
        };
        assert_eq!(text(ContainerState::Created, None), "Created");
        assert_eq!(text(ContainerState::Running, None), "Up 5 minutes");
        assert_eq!(text(ContainerState::Running, Some("healthy")), "Up 5 minutes (healthy)");
        assert_eq!(text(ContainerState::Running, Some("unhealthy")), "Up 5 minutes (unhealthy)");
        assert_eq!(text(ContainerState::Running, Some("starting")), "Up 5 minutes (health: starting)");
        assert_eq!(text(ContainerState::Paused, Some("healthy")), "Up 5 minutes (Paused)");
        assert_eq!(text(ContainerState::Restarting, None), "Restarting (1) 2 minutes ago");
        assert_eq!(text(ContainerState::Exited, None), "Exited (1) 2 minutes ago");
    }
}
