//! Commands one after the other, and what a home holds after each when nothing goes wrong. Whatever did go wrong
//! while one of them ran, the home is then as before it or as after it.

use std::fmt::Display;
use std::path::Path;

use e2e::aftermath::{self, Listed, Objects};
use e2e::coracle::{Coracle, Output};
use e2e::disk::Tree;

use crate::samples::memory;

/// What a home holds between two commands.
pub(crate) struct Stage {
    pub(crate) listed: Listed,
    pub(crate) objects: Objects,
    /// The directory that has the home in it.
    pub(crate) tree: Tree,
}

/// Commands with a stage before each and one after the last.
pub(crate) struct Session {
    pub(crate) commands: Vec<Vec<String>>,
    pub(crate) stages: Vec<Stage>,
}

/// The `coracle` whose home is `home` in a directory.
pub(crate) fn coracle_in(directory: &Path) -> Coracle {
    Coracle::at(&directory.join("home"))
}

impl Session {
    /// Runs the commands in a new home; each must succeed.
    pub(crate) fn rehearse(commands: &[Vec<String>]) -> Self {
        Self::rehearse_with("{}", commands)
    }

    /// Runs the commands in a new home with settings; each must succeed.
    pub(crate) fn rehearse_with(settings: &str, commands: &[Vec<String>]) -> Self {
        let directory = memory();
        let coracle = coracle_in(directory.path());
        std::fs::create_dir(coracle.home()).expect("a home");
        std::fs::write(coracle.home().join("settings.json"), settings).expect("written");
        let look = || Stage {
            listed: aftermath::listed(&coracle),
            objects: aftermath::objects(coracle.home()),
            tree: Tree::read(directory.path()).expect("a readable home"),
        };
        let tree = Tree::read(directory.path()).expect("a readable home");
        let mut stages = vec![Stage { listed: Listed::new(), objects: Objects::new(), tree }];
        for command in commands {
            let _ = coracle.coracle(command).expect(0);
            stages.push(look());
        }
        Self { commands: commands.to_vec(), stages }
    }

    /// Checks a home in which the command after `step` succeeded.
    pub(crate) fn examine_after(&self, directory: &Path, step: usize, when: &dyn Display) {
        assert_eq!(aftermath::listed(&coracle_in(directory)), self.stages[step + 1].listed, "{when}");
        self.examine(directory, step + 1, when);
    }

    /// Checks a home in which the command after `step` may have been interrupted: as before or as after it, whole,
    /// and of use. Nothing is left when all is removed.
    pub(crate) fn examine(&self, directory: &Path, step: usize, when: &dyn Display) {
        let coracle = coracle_in(directory);
        let listed = aftermath::listed(&coracle);
        let possible = &self.stages[step..self.stages.len().min(step + 2)];
        let Some(stage) = possible.iter().find(|stage| stage.listed == listed) else {
            let expected: Vec<&Listed> = possible.iter().map(|stage| &stage.listed).collect();
            panic!("{when}: images are {listed:?}, not one of {expected:?}");
        };
        aftermath::holds(coracle.home(), &stage.objects, &format!("{when}: before anything else"));
        if let (Some(command), Some(after)) = (self.commands.get(step), self.stages.get(step + 1)) {
            // What takes something away cannot do it twice.
            if command[0] != "rmi" || listed == self.stages[step].listed {
                succeeds(&coracle, command, when);
            }
            assert_eq!(aftermath::listed(&coracle), after.listed, "{when}: after the command was repeated");
            aftermath::holds(coracle.home(), &after.objects, &format!("{when}: after the command was repeated"));
        }
        succeeds(&coracle, ["image", "verify"], when);
        // Downloads that were interrupted stay, for the next attempt, until they are pruned.
        succeeds(&coracle, ["image", "prune", "--all", "--force"], when);
        let left = aftermath::leftovers(coracle.home());
        assert!(left.is_empty(), "{when}: left when all images are removed: {left:?}");
    }
}

fn succeeds<S: AsRef<std::ffi::OsStr>>(
    coracle: &Coracle,
    arguments: impl IntoIterator<Item = S>,
    when: &dyn Display,
) -> Output {
    let arguments: Vec<S> = arguments.into_iter().collect();
    let shown: Vec<_> = arguments.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect();
    let out = coracle.coracle(&arguments);
    assert!(out.code == 0, "{when}: {shown:?} ends with {}: {}", out.code, out.stderr);
    out
}
