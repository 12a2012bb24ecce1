//! The ids that a user was given beside its own: subuid(5), subgid(5).

use std::fs;

/// `count` ids from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// The first ranges of users and of groups that `user` has. Both go by the user's name or number.
pub(crate) fn of(user: u32) -> Option<(Range, Range)> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = name(&passwd, user);
    let range = |path: &str| range(&fs::read_to_string(path).ok()?, name, user);
    Some((range("/etc/subuid")?, range("/etc/subgid")?))
}

fn name(passwd: &str, user: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(user)).then_some(name)
    })
}

fn range(text: &str, name: Option<&str>, user: u32) -> Option<Range> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let range = Range { first: fields.next()?.parse().ok()?, count: fields.next()?.parse().ok()? };
        let is_own = Some(owner) == name || owner.parse() == Ok(user);
        (is_own && range.count > 0 && range.first.checked_add(range.count).is_some()).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_ids_by_name_or_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(name(passwd, 1000), Some("ann"));
        assert_eq!(name(passwd, 7), None);
        let text = "bob:100000:65536\nann:0:0\nann:many:1\nann:165536:65536\n1001:231072:65536\nann:1:1\n";
        assert_eq!(range(text, Some("ann"), 1000), Some(Range { first: 165_536, count: 65_536 }));
        assert_eq!(range(text, None, 1001), Some(Range { first: 231_072, count: 65_536 }));
        assert_eq!(range(text, Some("eve"), 1002), None);
        assert_eq!(range("eve:4294967295:2", Some("eve"), 1002), None);
    }
}
