//! Builds the images that the end-to-end tests load: `cargo run -p e2e --bin fixtures`.

fn main() -> anyhow::Result<()> {
    e2e::fixtures::build_all()
}
