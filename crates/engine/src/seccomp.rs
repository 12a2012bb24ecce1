//! Seccomp profiles in Docker's format, compiled to the filter that the guest puts in force.
//!
//! # The profile
//!
//! A JSON object. `defaultAction` holds for what no rule names; `syscalls` are the rules. A rule has `names` (or `name`),
//! an `action`, perhaps `errnoRet`, and `args` that must all hold: `{index, value, valueTwo, op}` with `op` one of
//! `SCMP_CMP_NE`, `LT`, `LE`, `EQ`, `GE`, `GT`, `MASKED_EQ`. Where `args` name an index twice, each is a rule of its own, as
//! in Docker. `includes` and `excludes` (`caps`, `arches`, `minKernel`) say whether a rule applies at all; they are
//! decided here: what the container has, x86-64, and the kernel of our machines. The first rule that fits holds.
//!
//! System calls that this kernel does not have are left out. `SCMP_ACT_NOTIFY` is refused: nobody in the machine listens.
//! So are keys that would change the meaning and are not known.
//!
//! # The filter
//!
//! Classic BPF (`linux/filter.h`, `linux/seccomp.h`), straight-line: the architecture, then a block for each rule and
//! system call, then the default. A program of another architecture (32 bits) is killed at its first system call, since
//! the numbers mean other things there.

mod syscalls;

use std::collections::BTreeMap;

use serde::Deserialize;
use thiserror::Error;

use crate::capability;

/// Most instructions that the kernel takes (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// Most bytes of a profile's text.
const MAX_TEXT: usize = 1 << 20;

/// The kernel of our machines.
const KERNEL: (u32, u32) = (6, 12);

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// System calls of the x32 ABI have this bit, and our kernel has not that ABI.
const X32: u32 = 0x4000_0000;

const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

/// A profile that cannot be put in force.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SeccompError {
    /// Not JSON, or not a profile.
    #[error("the seccomp profile cannot be read: {0}")]
    Syntax(String),
    /// More text than a profile is.
    #[error("the seccomp profile has {0} bytes; at most {MAX_TEXT}")]
    TooLong(usize),
    /// An action that is none.
    #[error("the seccomp profile has an unknown action {0:?}")]
    Action(String),
    /// An action that needs somebody outside.
    #[error("the seccomp profile has the action SCMP_ACT_NOTIFY, and nobody in the machine would be notified")]
    Notify,
    /// An operator that is none.
    #[error("the seccomp profile compares with an unknown operator {0:?}")]
    Operator(String),
    /// An argument that no system call has.
    #[error("the seccomp profile compares argument {0}; system calls have 0 to 5")]
    Argument(u32),
    /// A capability that is none.
    #[error("the seccomp profile asks for an unknown capability {0:?}")]
    Capability(String),
    /// A version of the kernel that is none.
    #[error("the seccomp profile asks for a kernel {0:?}, which is no version")]
    Kernel(String),
    /// More than the kernel takes.
    #[error("the seccomp profile needs {0} instructions; the kernel takes {MAX_INSTRUCTIONS}")]
    TooLarge(usize),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Rule>,
    // What follows is about other architectures, or about listeners.
    #[serde(default, rename = "architectures")]
    _architectures: serde::de::IgnoredAny,
    #[serde(default, rename = "archMap")]
    _arch_map: serde::de::IgnoredAny,
    #[serde(default, rename = "flags")]
    _flags: serde::de::IgnoredAny,
    #[serde(default, rename = "listenerPath")]
    _listener_path: serde::de::IgnoredAny,
    #[serde(default, rename = "listenerMetadata")]
    _listener_metadata: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    name: Option<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Comparison>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
    #[serde(default, rename = "comment")]
    _comment: serde::de::IgnoredAny,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Comparison {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// Compiles a profile for a container with those capabilities (bit n is number n): `struct sock_filter`, one after the
/// other.
///
/// # Errors
///
/// [`SeccompError`].
pub fn compile(text: &str, capabilities: u64) -> Result<Vec<u8>, SeccompError> {
    let program = program(text, capabilities)?;
    Ok(program.iter().flat_map(|instruction| instruction.bytes()).collect())
}

fn program(text: &str, capabilities: u64) -> Result<Vec<Instruction>, SeccompError> {
    if text.len() > MAX_TEXT {
        return Err(SeccompError::TooLong(text.len()));
    }
    let profile: Profile = serde_json::from_str(text).map_err(|error| SeccompError::Syntax(error.to_string()))?;
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut program = vec![
        load(ARCH),
        Instruction { code: JEQ, jt: 1, jf: 0, k: AUDIT_ARCH_X86_64 },
        ret(RET_KILL_PROCESS),
        load(NUMBER),
        Instruction { code: JGE, jt: 0, jf: 1, k: X32 },
        ret(RET_ERRNO | ENOSYS),
    ];
    for rule in &profile.syscalls {
        let verdict = action(&rule.action, rule.errno_ret.or(profile.default_errno_ret))?;
        // Whatever applies is checked as a whole.
        let checks = alternatives(rule.args.as_deref().unwrap_or_default())?;
        if applies(rule, capabilities)? {
            for number in rule.names.iter().chain(&rule.name).filter_map(|name| syscalls::number(name)) {
                for check in &checks {
                    append(&mut program, number, check, verdict);
                }
            }
        }
        if program.len() >= MAX_INSTRUCTIONS {
            return Err(SeccompError::TooLarge(program.len()));
        }
    }
    program.push(ret(default));
    Ok(program)
}

fn applies(rule: &Rule, capabilities: u64) -> Result<bool, SeccompError> {
    let (includes, excludes) = (rule.includes.as_ref(), rule.excludes.as_ref());
    let has = |name: &String| {
        let set = capability::resolve(std::slice::from_ref(name), &["ALL".to_owned()], false);
        set.map(|bit| capabilities & bit != 0).map_err(|_| SeccompError::Capability(name.clone()))
    };
    let is_here = |arch: &String| matches!(arch.as_str(), "amd64" | "x86_64" | "SCMP_ARCH_X86_64");
    if let Some(Condition { caps, arches, min_kernel }) = includes {
        for name in caps.iter().flatten() {
            if !has(name)? {
                return Ok(false);
            }
        }
        if arches.as_ref().is_some_and(|arches| !arches.is_empty() && !arches.iter().any(is_here))
            || min_kernel.as_deref().map(version).transpose()?.is_some_and(|least| KERNEL < least)
        {
            return Ok(false);
        }
    }
    if let Some(Condition { caps, arches, min_kernel }) = excludes {
        for name in caps.iter().flatten() {
            if has(name)? {
                return Ok(false);
            }
        }
        if arches.iter().flatten().any(is_here)
            || min_kernel.as_deref().map(version).transpose()?.is_some_and(|least| KERNEL >= least)
        {
            return Ok(false);
        }
    }
    Ok(true)
}

fn version(text: &str) -> Result<(u32, u32), SeccompError> {
    let parts = || {
        let (major, rest) = text.split_once('.')?;
        Some((major.parse().ok()?, rest.split('.').next()?.parse().ok()?))
    };
    parts().ok_or_else(|| SeccompError::Kernel(text.to_owned()))
}

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_ERRNO: u32 = 0x0005_0000;

fn action(name: &str, errno: Option<u32>) -> Result<u32, SeccompError> {
    let data = errno.unwrap_or(EPERM) & 0xffff;
    Ok(match name {
        "SCMP_ACT_ALLOW" => 0x7fff_0000,
        "SCMP_ACT_ERRNO" => RET_ERRNO | data,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | data,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_NOTIFY" => return Err(SeccompError::Notify),
        other => return Err(SeccompError::Action(other.to_owned())),
    })
}

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

impl Instruction {
    fn bytes(self) -> [u8; 8] {
        let ([a, b], [c, d, e, f]) = (self.code.to_le_bytes(), self.k.to_le_bytes());
        [a, b, self.jt, self.jf, c, d, e, f]
    }
}

const LD: u16 = 0x20;
const AND: u16 = 0x54;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const RET: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

fn load(offset: u32) -> Instruction {
    Instruction { code: LD, jt: 0, jf: 0, k: offset }
}

fn ret(verdict: u32) -> Instruction {
    Instruction { code: RET, jt: 0, jf: 0, k: verdict }
}

/// Where a jump of a comparison leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    /// To the next instruction.
    Next,
    /// Past so many.
    Skip(u8),
    /// To the end of the rule's block: it does not fit.
    Out,
}

/// An instruction of a comparison, its jumps not yet laid out.
#[derive(Debug, Clone, Copy)]
struct Step {
    code: u16,
    k: u32,
    jt: To,
    jf: To,
}

/// The comparisons of a rule, each alternative one list of steps.
fn alternatives(args: &[Comparison]) -> Result<Vec<Vec<Step>>, SeccompError> {
    let mut counts = BTreeMap::<u32, usize>::new();
    for comparison in args {
        *counts.entry(comparison.index).or_default() += 1;
    }
    let steps = args.iter().map(steps).collect::<Result<Vec<_>, _>>()?;
    if counts.values().any(|count| *count > 1) { Ok(steps) } else { Ok(vec![steps.concat()]) }
}

fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

/// One comparison of 64 bits as comparisons of its halves.
fn steps(comparison: &Comparison) -> Result<Vec<Step>, SeccompError> {
    use To::{Next, Out, Skip};
    let Comparison { index, value, value_two, op } = comparison;
    if *index > 5 {
        return Err(SeccompError::Argument(*index));
    }
    let low_half = ARGUMENTS + 8 * index;
    let plain = |code, k| Step { code, k, jt: Next, jf: Next };
    let jump = |code, k, jt, jf| Step { code, k, jt, jf };
    let (load_high, load_low) = (plain(LD, low_half + 4), plain(LD, low_half));
    let (high, low) = halves(*value);
    let above = |last| vec![load_high, jump(JGT, high, Skip(3), Next), jump(JEQ, high, Next, Out), load_low, last];
    let below = |last| vec![load_high, jump(JGT, high, Out, Next), jump(JEQ, high, Next, Skip(2)), load_low, last];
    Ok(match op.as_str() {
        "SCMP_CMP_EQ" => vec![load_high, jump(JEQ, high, Next, Out), load_low, jump(JEQ, low, Next, Out)],
        "SCMP_CMP_NE" => vec![load_high, jump(JEQ, high, Next, Skip(2)), load_low, jump(JEQ, low, Out, Next)],
        "SCMP_CMP_GT" => above(jump(JGT, low, Next, Out)),
        "SCMP_CMP_GE" => above(jump(JGE, low, Next, Out)),
        "SCMP_CMP_LE" => below(jump(JGT, low, Out, Next)),
        "SCMP_CMP_LT" => below(jump(JGE, low, Out, Next)),
        "SCMP_CMP_MASKED_EQ" => {
            let (datum_high, datum_low) = halves(*value_two);
            vec![
                load_high,
                plain(AND, high),
                jump(JEQ, datum_high, Next, Out),
                load_low,
                plain(AND, low),
                jump(JEQ, datum_low, Next, Out),
            ]
        }
        other => return Err(SeccompError::Operator(other.to_owned())),
    })
}

/// A block: where the number is that one and every step fits, the verdict. Behind it, the number is loaded.
fn append(program: &mut Vec<Instruction>, number: u32, steps: &[Step], verdict: u32) {
    // At most six comparisons of six steps, and two more: jumps of 8 bits reach.
    let reload = usize::from(!steps.is_empty());
    let distance = |steps: usize| u8::try_from(steps).unwrap_or(u8::MAX);
    let behind = distance(steps.len() + 1 + reload);
    program.push(Instruction { code: JEQ, jt: 0, jf: behind, k: number });
    for (index, step) in steps.iter().enumerate() {
        let lay = |to| match to {
            To::Next => 0,
            To::Skip(count) => count,
            // Past the steps that are left and the verdict.
            To::Out => distance(steps.len() - index),
        };
        program.push(Instruction { code: step.code, jt: lay(step.jt), jf: lay(step.jf), k: step.k });
    }
    program.push(ret(verdict));
    if reload > 0 {
        program.push(load(NUMBER));
    }
}

#[cfg(test)]
mod tests;
