//! Users and groups of a container, from its own `/etc/passwd` and `/etc/group`.
//!
//! The files come from an image and are hostile: parsing is pure, ids are strict decimal numbers of at most
//! 2³² − 2, and a line that makes no sense is skipped as if it were not there.

/// Largest user or group id: the one above means "no change" to system calls.
pub const MAX_ID: u32 = u32::MAX - 1;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups: the primary one first, without duplicates.
    pub groups: Vec<u32>,
    /// Home directory, `/` if passwd names none.
    pub home: Vec<u8>,
}

/// Most bytes of a user's name that are shown.
const MAX_NAME: usize = 32;

struct User<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

/// A strict decimal id.
fn parse_id(text: &[u8]) -> Option<u32> {
    let digits = (1..=10).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    let id = std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()?;
    (id <= MAX_ID).then_some(id)
}

fn fields<const N: usize>(line: &[u8]) -> Option<[&[u8]; N]> {
    let mut fields = line.split(|byte| *byte == b':');
    let mut found = [&line[..0]; N];
    for field in &mut found {
        *field = fields.next()?;
    }
    Some(found)
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty())
}

fn users(passwd: &[u8]) -> impl Iterator<Item = User<'_>> {
    lines(passwd).filter_map(|line| {
        let [name, _, uid, gid, _, home] = fields(line)?;
        Some(User { name, uid: parse_id(uid)?, gid: parse_id(gid)?, home })
    })
}

fn groups(group: &[u8]) -> impl Iterator<Item = Group<'_>> {
    lines(group).filter_map(|line| {
        // The member list may be missing together with its colon.
        let [name, _, gid] = fields(line)?;
        let members = fields::<4>(line).map_or(&line[..0], |[_, _, _, members]| members);
        Some(Group { name, gid: parse_id(gid)?, members })
    })
}

/// The names of users, by number. The first line of a number counts.
#[must_use]
pub fn names(passwd: &[u8]) -> std::collections::BTreeMap<u32, String> {
    let mut names = std::collections::BTreeMap::new();
    for user in users(passwd) {
        let name = user.name.get(..MAX_NAME).unwrap_or(user.name);
        names.entry(user.uid).or_insert_with(|| String::from_utf8_lossy(name).into_owned());
    }
    names
}

fn find_group(group_file: &[u8], wanted: &str) -> Result<u32, String> {
    let id = parse_id(wanted.as_bytes());
    let known = groups(group_file).find(|group| group.name == wanted.as_bytes() || Some(group.gid) == id);
    let is_number = !wanted.is_empty() && wanted.bytes().all(|byte| byte.is_ascii_digit());
    match (known, id) {
        (Some(group), _) => Ok(group.gid),
        (None, Some(id)) => Ok(id),
        (None, None) if is_number => Err(format!("group id {wanted} is over {MAX_ID}")),
        (None, None) => Err(format!("no group {wanted:?} in the container's /etc/group")),
    }
}

/// Looks `USER[:GROUP]` up as Docker does.
///
/// A name in passwd goes before a number; a number need not be in passwd. Without `GROUP` the user's groups are
/// those of passwd and of every line of group that names the user; with it they are that group alone.
///
/// # Errors
///
/// A sentence that names the user or group that is not there.
pub fn look_up(user: &str, additional: &[String], passwd: &[u8], group_file: &[u8]) -> Result<Identity, String> {
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let id = parse_id(user.as_bytes());
    let known = users(passwd).find(|known| known.name == user.as_bytes() || Some(known.uid) == id);
    let (uid, mut gid, home) = match (&known, id) {
        (Some(known), _) => (known.uid, known.gid, known.home),
        (None, Some(id)) => (id, 0, &b""[..]),
        (None, None) if user.bytes().all(|byte| byte.is_ascii_digit()) => {
            return Err(format!("user id {user} is over {MAX_ID}"));
        }
        (None, None) => return Err(format!("no user {user:?} in the container's /etc/passwd")),
    };
    let mut supplementary = Vec::new();
    match (group, &known) {
        (Some(group), _) => gid = find_group(group_file, group)?,
        (None, Some(known)) => {
            let is_member =
                |group: &Group<'_>| group.members.split(|byte| *byte == b',').any(|name| name == known.name);
            supplementary.extend(groups(group_file).filter(is_member).map(|group| group.gid));
        }
        (None, None) => {}
    }
    for group in additional {
        supplementary.push(find_group(group_file, group)?);
    }
    let mut all = vec![gid];
    for group in supplementary {
        if !all.contains(&group) {
            all.push(group);
        }
    }
    let home = if home.is_empty() { b"/".to_vec() } else { home.to_vec() };
    Ok(Identity { uid, gid, groups: all, home })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\nbad line\nshort:x:5\nhuge:x:4294967295:1::/:\n\
        neg:x:-1:1::/:\nplus:x:+7:1::/:\nweb:x:1000:33:Web,,,:/srv/web:/bin/sh\n4242:x:7:8::/seven:\nnohome:x:9:9::\n\
        dup:x:1000:99::/dup:\r\n";
    const GROUP: &[u8] =
        b"root:x:0:root\nwww:x:33:web\nadm:x:4:web,root,web\nbare:x:77\n# comment\nwheel:x:10:webb,we\n";

    fn find(user: &str) -> Result<Identity, String> {
        look_up(user, &[], PASSWD, GROUP)
    }

    #[test]
    fn names_come_with_their_groups_and_home() {
        let web = find("web").unwrap();
        assert_eq!((web.uid, web.gid, web.home.as_slice()), (1000, 33, &b"/srv/web"[..]));
        assert_eq!(web.groups, [33, 4]);
        assert_eq!(find("").unwrap().groups, [0, 4]);
        assert_eq!(find("").unwrap(), find("root").unwrap());
    }

    #[test]
    fn numbers_need_not_be_known() {
        let unknown = find("12345").unwrap();
        assert_eq!((unknown.uid, unknown.gid, unknown.home.as_slice()), (12345, 0, &b"/"[..]));
        assert_eq!(unknown.groups, [0]);
        assert_eq!(find("1000").unwrap(), find("web").unwrap());
        assert_eq!(find("4294967294").unwrap().uid, MAX_ID);
    }

    #[test]
    fn a_name_made_of_digits_goes_before_the_number() {
        assert_eq!(find("4242").unwrap().uid, 7);
    }

    #[test]
    fn an_explicit_group_is_the_only_one() {
        let web = find("web:adm").unwrap();
        assert_eq!((web.gid, web.groups.as_slice()), (4, &[4][..]));
        assert_eq!(find("web:77").unwrap().gid, 77);
        assert_eq!(find("web:12345").unwrap().gid, 12345);
        assert_eq!(find("web:bare").unwrap().gid, 77);
        assert_eq!(find("web:").unwrap().gid, 33);
        assert_eq!(find(":adm").unwrap(), Identity { gid: 4, groups: vec![4], ..find("root").unwrap() });
    }

    #[test]
    fn additional_groups_are_added_once() {
        let more = ["bare".to_owned(), "4".to_owned(), "555".to_owned()];
        assert_eq!(look_up("web", &more, PASSWD, GROUP).unwrap().groups, [33, 4, 77, 555]);
        assert!(look_up("web", &["absent".to_owned()], PASSWD, GROUP).unwrap_err().contains("\"absent\""));
    }

    /// CVE-2024-40635: an id beyond 32 bits must not become root.
    #[test]
    fn ids_that_overflow_are_refused() {
        for user in ["4294967295", "4294967296", "18446744073709551616", "99999999999999999999999", "-1", "+0", " 0"] {
            assert!(find(user).is_err(), "{user}");
            assert!(find(&format!("0:{user}")).is_err(), "0:{user}");
        }
        for user in ["huge", "neg", "plus", "short", "bad line"] {
            assert!(find(user).is_err(), "{user}");
        }
    }

    #[test]
    fn missing_files_leave_numbers() {
        assert_eq!(look_up("5:6", &[], b"", b"").unwrap().groups, [6]);
        assert!(look_up("root", &[], b"", b"").is_err());
        assert_eq!(look_up("", &[], b"", b"").unwrap().uid, 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(user in ".{0,20}", passwd in any::<Vec<u8>>(), group in any::<Vec<u8>>()) {
            if let Ok(found) = look_up(&user, &[], &passwd, &group) {
                prop_assert!(found.uid <= MAX_ID && found.gid <= MAX_ID);
            }
        }
    }
}
