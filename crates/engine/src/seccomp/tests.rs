use proptest::prelude::*;

use super::*;

const ALLOW: u32 = 0x7fff_0000;
const DENIED: u32 = RET_ERRNO | EPERM;

/// What the kernel would say.
fn run(program: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        NUMBER => number,
        ARCH => arch,
        _ => {
            let (high, low) = halves(args[((offset - ARGUMENTS) / 8) as usize]);
            if (offset - ARGUMENTS) % 8 == 4 { high } else { low }
        }
    };
    let (mut at, mut a) = (0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            LD => a = word(k),
            AND => a &= k,
            JEQ => at += jump(a == k),
            JGT => at += jump(a > k),
            JGE => at += jump(a >= k),
            RET => return k,
            other => panic!("no such instruction: {other:#x}"),
        }
    }
}

fn verdict(profile: &str, capabilities: u64, name: &str, args: [u64; 6]) -> u32 {
    let program = program(profile, capabilities).unwrap();
    run(&program, AUDIT_ARCH_X86_64, syscalls::number(name).unwrap(), args)
}

fn with_rules(rules: &str) -> String {
    format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{rules}]}}"#)
}

#[test]
fn first_rule_that_fits_holds() {
    let profile = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW", "comment": "x", "args": null},
            {"name": "mkdir", "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["mkdir", "mount"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["ptrace"], "action": "SCMP_ACT_TRAP"}
        ]}"#;
    let verdict = |name| verdict(profile, 0, name, [0; 6]);
    assert_eq!((verdict("read"), verdict("write")), (ALLOW, ALLOW));
    assert_eq!((verdict("mkdir"), verdict("mount")), (RET_ERRNO | 38, RET_KILL_PROCESS));
    assert_eq!((verdict("ptrace"), verdict("close")), (0x0003_0000, RET_ERRNO | 5));
    let program = program(profile, 0).unwrap();
    assert_eq!(run(&program, 0x4000_0003, 0, [0; 6]), RET_KILL_PROCESS, "32 bits");
    assert_eq!(run(&program, AUDIT_ARCH_X86_64, X32, [0; 6]), RET_ERRNO | ENOSYS);
}

#[test]
fn capabilities_architectures_and_kernels_decide_what_applies() {
    let applies = |condition: &str, capabilities| {
        let rule = format!(r#"{{"names": ["read"], "action": "SCMP_ACT_ALLOW", {condition}}}"#);
        verdict(&with_rules(&rule), capabilities, "read", [0; 6]) == ALLOW
    };
    let admin = 1 << 21;
    assert!(applies(r#""includes": {"caps": ["CAP_SYS_ADMIN"]}"#, admin));
    assert!(!applies(r#""includes": {"caps": ["CAP_SYS_ADMIN", "CAP_CHOWN"]}"#, admin));
    assert!(!applies(r#""excludes": {"caps": ["CAP_SYS_ADMIN"]}"#, admin));
    assert!(applies(r#""excludes": {"caps": ["CAP_SYS_ADMIN"]}"#, 1));
    assert!(applies(r#""includes": {"arches": ["amd64", "x32"]}"#, 0));
    assert!(!applies(r#""includes": {"arches": ["s390"]}"#, 0));
    assert!(!applies(r#""excludes": {"arches": ["amd64"]}"#, 0));
    assert!(applies(r#""includes": {"minKernel": "4.8"}, "excludes": {}"#, 0));
    assert!(!applies(r#""includes": {"minKernel": "7.0"}"#, 0));
}

#[test]
fn an_index_twice_is_two_rules() {
    let equal = |value: u64| format!(r#"{{"index": 0, "value": {value}, "op": "SCMP_CMP_EQ"}}"#);
    let rule =
        format!(r#"{{"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{}, {}]}}"#, equal(0), equal(8));
    let verdict = |value| verdict(&with_rules(&rule), 0, "personality", [value, 0, 0, 0, 0, 0]);
    assert_eq!((verdict(0), verdict(8), verdict(4)), (ALLOW, ALLOW, DENIED));
}

#[test]
fn what_cannot_be_put_in_force_is_refused() {
    let error = |text: &str| program(text, 0).unwrap_err();
    assert!(matches!(error("{"), SeccompError::Syntax(_)));
    assert!(matches!(error(r#"{"defaultAction": "SCMP_ACT_ALLOW", "wrong": 1}"#), SeccompError::Syntax(_)));
    assert_eq!(error(r#"{"defaultAction": "ALLOW"}"#), SeccompError::Action("ALLOW".into()));
    let rule = |rest: &str| error(&with_rules(&format!(r#"{{"names": ["read"], {rest}}}"#)));
    assert_eq!(rule(r#""action": "SCMP_ACT_NOTIFY""#), SeccompError::Notify);
    let arg = |arg: &str| rule(&format!(r#""action": "SCMP_ACT_ALLOW", "args": [{arg}]"#));
    assert_eq!(arg(r#"{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}"#), SeccompError::Argument(6));
    assert_eq!(arg(r#"{"index": 0, "value": 0, "op": "EQ"}"#), SeccompError::Operator("EQ".into()));
    let caps = r#""action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_FLY"]}"#;
    assert_eq!(rule(caps), SeccompError::Capability("CAP_FLY".into()));
    let kernel = r#""action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "new"}"#;
    assert_eq!(rule(kernel), SeccompError::Kernel("new".into()));
    assert_eq!(error(&" ".repeat(MAX_TEXT + 1)), SeccompError::TooLong(MAX_TEXT + 1));
    let many = (0..3000).map(|_| r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW"}"#).collect::<Vec<_>>().join(",");
    assert!(matches!(error(&with_rules(&many)), SeccompError::TooLarge(_)));
}

proptest! {
    #[test]
    fn comparisons_are_those_of_64_bits(
        argument in prop_oneof![any::<u64>(), 0_u64..4, Just(1 << 32), Just((1 << 32) + 1)],
        value in prop_oneof![any::<u64>(), 0_u64..4, Just(1 << 32), Just((1 << 32) + 1)],
        two in prop_oneof![any::<u64>(), 0_u64..4],
        index in 0_usize..6,
    ) {
        for (op, expected) in [
            ("EQ", argument == value),
            ("NE", argument != value),
            ("LT", argument < value),
            ("LE", argument <= value),
            ("GT", argument > value),
            ("GE", argument >= value),
            ("MASKED_EQ", argument & value == two),
        ] {
            let arg = format!(r#"{{"index": {index}, "value": {value}, "valueTwo": {two}, "op": "SCMP_CMP_{op}"}}"#);
            let rule = format!(r#"{{"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{arg}]}}"#);
            let profile = with_rules(&format!(r#"{rule}, {{"names": ["read"], "action": "SCMP_ACT_LOG"}}"#));
            let mut args = [0; 6];
            args[index] = argument;
            let verdict = |name| verdict(&profile, 0, name, args);
            prop_assert_eq!(verdict("clone") == ALLOW, expected, "{} {} {}", argument, op, value);
            // What follows still sees the number.
            prop_assert_eq!(verdict("read"), 0x7ffc_0000);
        }
    }

    #[test]
    fn any_text_compiles_or_is_refused(text in "\\PC{0,80}") {
        let _ = compile(&text, 0);
    }
}
