//! `coracle top`.

use clap::Args;
use engine::Engine;

use crate::output::{format, report::Refusal, table};

#[derive(Debug, Args)]
#[command(override_usage = "CONTAINER")]
pub(crate) struct TopFlags {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    /// Options of ps
    #[arg(value_name = "PS OPTION", hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}

/// Lists the processes of a container.
pub(crate) fn top(engine: &Engine, flags: &TopFlags) -> anyhow::Result<()> {
    // What is shown without options is what `ps -ef` shows.
    if flags.options.iter().any(|option| option != "-ef") {
        let hint = format!("`coracle exec {} ps {}`, where the image has ps", flags.container, flags.options.join(" "));
        return Err(Refusal::new("the guest lists its processes itself, and knows no options of ps", hint).into());
    }
    let top = engine.top(&flags.container)?;
    let titles: Vec<_> = top.titles.iter().map(String::as_str).collect();
    format::to_stdout(|out| Ok(table::write(out, &titles, &top.rows)?))
}
