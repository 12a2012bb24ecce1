use super::*;
use crate::request::TmpfsRequest;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn host() -> Host {
    Host {
        cpus: 8,
        memory: 16 << 30,
        wall_clock: Duration::new(1_700_000_000, 5),
        resolv_conf: "nameserver 192.0.2.1\n".to_owned(),
        upstream_resolv_conf: None,
    }
}

fn image() -> ImageDefaults {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    ImageDefaults {
        entrypoint: Vec::new(),
        cmd: words("/bin/sh -l"),
        env: words("PATH=/bin BOAT=image"),
        user: "alice:crew".to_owned(),
        working_dir: "srv".to_owned(),
        stop_signal: Some("SIGINT".to_owned()),
        ..ImageDefaults::default()
    }
}

fn files() -> Files {
    Files {
        kernel: "/lib/vmlinux".into(),
        initrd: "/lib/initrd".into(),
        root: vec![
            Extent { file: "/h/roots/r".into(), offset: 0, length: 8192 },
            Extent { file: "/h/layers/l/data".into(), offset: 0, length: 4096 },
        ],
        scratch: "/h/containers/c/scratch.ext4".into(),
        volumes: Vec::new(),
    }
}

fn request() -> RunRequest {
    RunRequest { image: "busybox".to_owned(), ..RunRequest::default() }
}

fn resolved(request: &RunRequest) -> Resolved {
    resolve(ID, request, &image(), &host()).unwrap()
}

fn planned(request: &RunRequest) -> Plan {
    plan(request, &resolved(request), files(), &host()).unwrap()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn golden(name: &str, plan: &Plan) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan/golden").join(name);
    let text = format!("{plan:#?}\n");
    if std::env::var_os("CORACLE_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{} differs; CORACLE_BLESS=1 rewrites it. Now:\n{text}", path.display());
}

#[test]
fn golden_least() {
    golden("least.txt", &planned(&request()));
}

#[test]
fn golden_everything() {
    let request = RunRequest {
        command: words("serve --all"),
        entrypoint: Some("/bin/boat".to_owned()),
        env: words("BOAT=mine PATH EXTRA=1"),
        working_dir: Some("/work".to_owned()),
        user: Some("77:88".to_owned()),
        groups: words("2000"),
        tty: true,
        interactive: true,
        hostname: Some("deck".to_owned()),
        cpu_milli: Some(1500),
        memory: Some(256 << 20),
        scratch_size: Some((1 << 30) + 5),
        shm_size: Some(1 << 20),
        pids_limit: Some(100),
        read_only: true,
        tmpfs: vec![TmpfsRequest { path: "/run".to_owned(), options: "size=1m".to_owned() }],
        volumes: vec![mounts::parse_volume("/srv/boats:/boats:ro").unwrap()],
        cap_add: words("NET_ADMIN"),
        cap_drop: words("ALL"),
        no_new_privileges: true,
        ulimits: words("nofile=10:20"),
        sysctls: vec![("net.ipv4.ip_forward".to_owned(), "1".to_owned())],
        init: true,
        ..request()
    };
    golden("everything.txt", &planned(&request));
}

#[test]
fn golden_privileged() {
    golden("privileged.txt", &planned(&RunRequest { privileged: true, ..request() }));
}

#[test]
fn entrypoint_and_command_as_docker_combines_them() {
    let with_entrypoint = ImageDefaults { entrypoint: words("/entry -x"), cmd: words("one two"), ..image() };
    let argv = |entrypoint: Option<&str>, command: &str| {
        let request = RunRequest { entrypoint: entrypoint.map(str::to_owned), command: words(command), ..request() };
        resolve(ID, &request, &with_entrypoint, &host()).map(|r| (r.argv.join(" "), r.entrypoint_words))
    };
    assert_eq!(argv(None, ""), Ok(("/entry -x one two".to_owned(), 2)));
    assert_eq!(argv(None, "three"), Ok(("/entry -x three".to_owned(), 2)));
    assert_eq!(argv(Some("/mine"), ""), Ok(("/mine".to_owned(), 1)));
    assert_eq!(argv(Some("/mine"), "three"), Ok(("/mine three".to_owned(), 1)));
    assert_eq!(argv(Some(""), "three"), Ok(("three".to_owned(), 0)));
    assert_eq!(argv(Some(""), ""), Err(PlanError::NoCommand("busybox".to_owned())));
}

#[test]
fn empty_and_broken_commands() {
    let request =
        |command: &[&str]| RunRequest { command: command.iter().map(|s| (*s).to_owned()).collect(), ..request() };
    assert_eq!(resolve(ID, &request(&[""]), &image(), &host()), Err(PlanError::EmptyProgram));
    assert_eq!(resolve(ID, &request(&["a\0b"]), &image(), &host()), Err(PlanError::Nul("command")));
    let none = ImageDefaults::default();
    assert!(matches!(resolve(ID, &request(&[]), &none, &host()), Err(PlanError::NoCommand(_))));
}

#[test]
fn image_environment_is_not_trusted() {
    for entry in ["", "=x", "A=\0"] {
        let image = ImageDefaults { env: vec![entry.to_owned()], ..image() };
        let error = resolve(ID, &request(), &image, &host()).unwrap_err();
        assert!(matches!(error, PlanError::ImageEnvironment { .. }), "{error}");
    }
}

#[test]
fn sizes_of_machines() {
    let vcpus = |milli| resolve(ID, &RunRequest { cpu_milli: milli, ..request() }, &image(), &host()).map(|r| r.vcpus);
    assert_eq!(vcpus(None), Ok(1));
    assert_eq!(vcpus(Some(100)), Ok(1));
    assert_eq!(vcpus(Some(1001)), Ok(2));
    assert_eq!(vcpus(Some(8000)), Ok(8));
    let error = vcpus(Some(8500)).unwrap_err();
    assert_eq!(error.to_string(), "8.5 CPUs were asked for, but this host has 8");

    let memory = |bytes| resolve(ID, &RunRequest { memory: bytes, ..request() }, &image(), &host());
    assert_eq!(memory(None).unwrap().memory_mib, 1024);
    assert_eq!(memory(Some(MIN_MEMORY)).unwrap().memory_mib, 64);
    let error = memory(Some(8 << 20)).unwrap_err();
    assert_eq!(error.to_string(), "8 MiB of memory is too little: a machine needs at least 64 MiB");
    assert!(matches!(memory(Some(17 << 30)), Err(PlanError::TooMuchMemory { .. })));

    let scratch = |bytes| resolve(ID, &RunRequest { scratch_size: Some(bytes), ..request() }, &image(), &host());
    assert!(matches!(scratch(1 << 20), Err(PlanError::TooLittleScratch(_))));
    assert_eq!(scratch(1 << 30).unwrap().scratch_size, 1 << 30);
}

#[test]
fn small_host_gets_small_machines() {
    let host = Host { cpus: 1, memory: 1 << 30, ..host() };
    let resolved = resolve(ID, &request(), &image(), &host).unwrap();
    assert_eq!((resolved.vcpus, resolved.memory_mib), (1, 512));
}

#[test]
fn container_memory_lies_below_the_machine_s() {
    for mib in [64_u64, 128, 1024, 1 << 18] {
        let memory = mib << 20;
        assert!(guest_reserve(memory) < memory * 2 / 3, "{mib}");
    }
}
