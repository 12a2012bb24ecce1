use proptest::prelude::*;

use super::*;

fn volume(name: Option<&str>, target: &str) -> VolumeRequest {
    VolumeRequest { name: name.map(str::to_owned), target: target.to_owned(), ..VolumeRequest::default() }
}

fn asked(request: VolumeRequest) -> Result<MountRequest, MountError> {
    Ok(MountRequest::Volume(request))
}

#[test]
fn volumes_are_parsed_as_docker_has_them() {
    let read_only = VolumeRequest { read_only: true, ..volume(Some("data"), "/srv") };
    for (text, expected) in [
        ("/srv", volume(None, "/srv")),
        ("data:/srv", volume(Some("data"), "/srv")),
        ("data:/srv/", volume(Some("data"), "/srv")),
        ("data://srv/./x", volume(Some("data"), "/srv/x")),
        ("data:/srv:rw,z", volume(Some("data"), "/srv")),
        ("data:/srv:ro", read_only.clone()),
        ("data:/srv:nocopy,ro", VolumeRequest { no_copy: true, ..read_only }),
        ("/srv:ro", VolumeRequest { read_only: true, ..volume(None, "/srv") }),
    ] {
        assert_eq!(parse_volume(text), asked(expected), "{text}");
    }
    for text in ["", "srv", "/", "data:/", "data:srv", "data:/a/../b", "d:/srv", "data:/srv:maybe", "a:b:c:d", "data:"]
    {
        assert!(parse_volume(text).is_err(), "{text}");
    }
}

fn bind(source: &str, target: &str, read_only: bool) -> Result<MountRequest, MountError> {
    Ok(MountRequest::Bind(BindMount { source: source.into(), target: target.into(), read_only }))
}

#[test]
fn paths_of_the_host_are_parsed_as_docker_has_them() {
    let here = std::env::current_dir().unwrap().into_os_string().into_string().unwrap();
    for (text, expected) in [
        ("/home:/srv", bind("/home", "/srv", false)),
        ("/:/host:ro", bind("/", "/host", true)),
        ("/a b//./c/:/srv/:rw,z,rprivate", bind("/a b/c/", "/srv", false)),
        ("./x:/srv:ro,cached", bind(&format!("{here}/x"), "/srv", true)),
        (".:/srv", bind(&here, "/srv", false)),
        ("../x:/srv", bind(&format!("{here}/../x"), "/srv", false)),
    ] {
        assert_eq!(parse_volume(text), expected, "{text}");
    }
    for text in ["/home:/srv:nocopy", "/home:/srv:shared", "/home:/", "/home:srv", "/a:/b:ro:rw", "~/x:/srv", ".x:/srv"]
    {
        assert!(parse_volume(text).is_err(), "{text}");
    }
    let everything = "type=bind,source=/home,target=/srv,readonly,bind-propagation=rprivate,bind-recursive=enabled";
    assert_eq!(parse_mount(everything), bind("/home", "/srv", true));
    assert_eq!(parse_mount("type=bind,src=x,dst=/srv"), bind(&format!("{here}/x"), "/srv", false));
}

#[test]
fn only_what_the_host_has_and_can_share_is_mounted() {
    let place = tempfile::tempdir().unwrap();
    let check = |name: &str| {
        let source = place.path().join(name).into_os_string().into_string().unwrap();
        check_sources(&[BindMount { source, target: "/x".into(), read_only: false }])
    };
    std::fs::write(place.path().join("file"), "").unwrap();
    std::os::unix::fs::symlink("file", place.path().join("link")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(place.path().join("socket")).unwrap();
    assert_eq!([check(""), check("file"), check("link")], [Ok(()), Ok(()), Ok(())]);
    let missing = check("missing").unwrap_err().to_string();
    assert!(missing.contains("/missing") && missing.contains("mkdir -p"), "{missing}");
    let socket = check("socket").unwrap_err().to_string();
    assert!(socket.contains("/socket") && socket.contains("neither"), "{socket}");
}

#[test]
fn mounts_are_parsed_as_docker_has_them() {
    assert_eq!(parse_mount("type=volume,src=data,dst=/srv"), asked(volume(Some("data"), "/srv")));
    assert_eq!(parse_mount("target=/srv"), asked(volume(None, "/srv")));
    let everything = "type=volume,source=data,destination=/srv,readonly,volume-nocopy=true,volume-driver=local,\
                      volume-opt=size=64m,volume-label=a=b,volume-label=c";
    let labels = [("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())].into();
    let expected =
        VolumeRequest { read_only: true, no_copy: true, size: Some(64 << 20), labels, ..volume(Some("data"), "/srv") };
    assert_eq!(parse_mount(everything), asked(expected));
    let tmpfs = |options: &str| Ok(MountRequest::Tmpfs(TmpfsRequest { path: "/t".into(), options: options.into() }));
    assert_eq!(parse_mount("type=tmpfs,dst=/t"), tmpfs(""));
    assert_eq!(parse_mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770,ro"), tmpfs("size=1048576,mode=1770,ro"));
    for (text, part) in [
        ("type=bind,dst=/srv", "needs a source"),
        ("type=bind,src=/home,dst=/srv,volume-nocopy", "no options of a volume"),
        ("type=bind,src=/home,dst=/srv,tmpfs-size=1m", "no options of a volume or tmpfs"),
        ("type=bind,src=/home,dst=/srv,bind-propagation=shared", "cannot be \"shared\""),
        ("type=bind,src=/home,dst=/srv,bind-recursive=disabled", "cannot be"),
        ("type=volume,src=/home,dst=/srv", "type=bind"),
        ("type=volume,src=data", "needs a target"),
        ("type=npipe,dst=/srv", "unknown type"),
        ("type=volume,dst=/srv,colour=blue", "unknown key \"colour\""),
        ("dst=/srv,ro=perhaps", "cannot be \"perhaps\""),
        ("type=tmpfs,dst=/t,tmpfs-mode=9", "cannot be"),
        ("type=tmpfs,dst=/t,src=x", "no source"),
        ("dst=/srv,tmpfs-size=1m", "no options of a tmpfs"),
        ("dst=/srv,volume-driver=nfs", "unknown volume driver"),
        ("dst=/srv,volume-opt=o=bind", "unknown volume option"),
        ("dst=/", "nothing can be mounted"),
    ] {
        let error = parse_mount(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn every_place_is_taken_once() {
    let id = "0123456789abcdef".repeat(4);
    let requests = [parse_volume("data:/srv").unwrap(), parse_volume("/cache").unwrap()];
    let tmpfs = [TmpfsRequest { path: "/run/".into(), options: String::new() }];
    let image = ["/srv/", "/var/lib", "/run", "relative", "/"].map(str::to_owned);
    let mounts = resolve(&id, &requests, &tmpfs, &image).unwrap();
    let seen: Vec<_> = mounts.iter().map(|mount| (mount.target.as_str(), mount.anonymous, mount.copy_up)).collect();
    assert_eq!(seen, [("/srv", false, true), ("/cache", true, true), ("/var/lib", true, true)]);
    assert_eq!(mounts[1].volume.len(), 64);
    assert_ne!(mounts[1].volume, mounts[2].volume);
    assert_eq!(mounts, resolve(&id, &requests, &tmpfs, &image).unwrap());

    let twice = [parse_volume("a1:/srv").unwrap(), parse_volume("b1:/srv/").unwrap()];
    assert_eq!(resolve(&id, &twice, &[], &[]), Err(MountError::Twice("/srv".into())));
    assert_eq!(
        resolve(&id, &twice[..1], &[TmpfsRequest { path: "/srv".into(), options: String::new() }], &[]),
        Err(MountError::Twice("/srv".into()))
    );
    let bound = [parse_volume("/home:/srv").unwrap(), parse_volume("data:/srv").unwrap()];
    assert_eq!(resolve(&id, &bound, &[], &[]), Err(MountError::Twice("/srv".into())));
    assert_eq!(resolve(&id, &bound[..1], &[], &["/srv".to_owned()]), Ok(Vec::new()));
    let many: Vec<_> = (0..=MAX_VOLUMES).map(|n| parse_volume(&format!("/v{n}")).unwrap()).collect();
    assert!(matches!(resolve(&id, &many, &[], &[]), Err(MountError::TooMany { asked: 12, most: 11 })));
}

proptest! {
    #[test]
    fn any_text_parses_or_fails(text in "\\PC{0,60}", fields in prop::collection::vec("(type|src|dst|ro|volume-opt|volume-label|tmpfs-mode)=?[a-z/=.,]{0,8}", 0..5)) {
        let _ = parse_volume(&text);
        let _ = parse_mount(&text);
        let _ = parse_mount(&fields.join(","));
    }
}
