//! What is in a file of credentials. What is not ours in it keeps its order and its text.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use base64::Engine as _;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{GeneralPurposeConfig, STANDARD};
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{CredentialsError, Secret, is_hub, key};

/// As docker reads it: with padding or without.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

/// A JSON object with its keys in their order.
#[derive(Debug, Clone, Default)]
struct Object(Vec<(String, Box<RawValue>)>);

impl Object {
    /// The last value of a key counts, as for every reader of JSON.
    fn get(&self, key: &str) -> Option<&RawValue> {
        self.0.iter().rev().find(|(k, _)| k == key).map(|(_, value)| &**value)
    }

    fn set(&mut self, key: &str, value: Box<RawValue>) {
        match self.0.iter_mut().rev().find(|(k, _)| k == key) {
            Some(entry) => entry.1 = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries(PhantomData<Object>);
        impl<'de> Visitor<'de> for Entries {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// One entry of `auths`. Docker writes an empty one where a program keeps the credentials.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
}

/// A file of credentials.
#[derive(Debug)]
pub(super) struct Document {
    all: Object,
    auths: Object,
    helpers: Object,
    creds_store: Option<String>,
}

impl Document {
    /// Reads a file's text; `path` is for errors, which show nothing of the text.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, CredentialsError> {
        let malformed = |problem: String| CredentialsError::Malformed { path: path.to_owned(), problem };
        if text.trim().is_empty() {
            return Ok(Self {
                all: Object::default(),
                auths: Object::default(),
                helpers: Object::default(),
                creds_store: None,
            });
        }
        let all: Object = serde_json::from_str(text)
            .map_err(|e| malformed(format!("it is not JSON (line {}, column {})", e.line(), e.column())))?;
        let part = |name: &str, kind: &str| malformed(format!("its {name:?} is not {kind}"));
        Ok(Self {
            auths: member(&all, "auths").ok_or_else(|| part("auths", "an object"))?.unwrap_or_default(),
            helpers: member(&all, "credHelpers").ok_or_else(|| part("credHelpers", "an object"))?.unwrap_or_default(),
            creds_store: member(&all, "credsStore").ok_or_else(|| part("credsStore", "a string"))?,
            all,
        })
    }

    /// The program that keeps this registry's credentials, by name.
    pub(super) fn helper(&self, registry: &str) -> Option<String> {
        let own =
            self.helpers.0.iter().rev().find(|(host, _)| host == registry || normal(host) == normal(key(registry)));
        let own = own.and_then(|(_, value)| serde_json::from_str::<String>(value.get()).ok());
        own.or_else(|| self.creds_store.clone()).filter(|name| !name.is_empty())
    }

    /// The credentials in it for a repository: those of the longest key that names it or something above it.
    pub(super) fn secret(
        &self,
        path: &Path,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Secret>, CredentialsError> {
        let mut name = Some(format!("{registry}/{repository}"));
        while let Some(candidate) = name {
            let exact = self.auths.get(&candidate).map(|value| (candidate.as_str(), value));
            let found = exact.or_else(|| if candidate == registry { self.under_old_key(registry) } else { None });
            if let Some((key, value)) = found
                && let Some(secret) = secret_of(path, key, value)?
            {
                return Ok(Some(secret));
            }
            name = candidate.rsplit_once('/').map(|(above, _)| above.to_owned());
        }
        Ok(None)
    }

    fn under_old_key<'a>(&'a self, registry: &'a str) -> Option<(&'a str, &'a RawValue)> {
        let exact = self.auths.get(key(registry)).map(|value| (key(registry), value));
        exact.or_else(|| {
            let matching = |entry: &&(String, Box<RawValue>)| names(&entry.0, registry);
            self.auths.0.iter().rev().find(matching).map(|(key, value)| (key.as_str(), &**value))
        })
    }

    /// Keeps credentials under docker's key, in place of all that were kept for this registry.
    pub(super) fn set(&mut self, registry: &str, user: &str, password: &str) {
        self.auths.0.retain(|(k, _)| k == key(registry) || !names(k, registry));
        let auth = STANDARD.encode(format!("{user}:{password}"));
        // Base64 needs no escapes; as docker writes it, and no error is possible.
        let entry = RawValue::from_string(format!("{{\n\t\t\t\"auth\": \"{auth}\"\n\t\t}}"));
        if let Ok(entry) = entry {
            self.auths.set(key(registry), entry);
        }
    }

    /// Forgets all that is kept for a registry as a whole.
    pub(super) fn remove(&mut self, registry: &str) -> bool {
        let before = self.auths.0.len();
        self.auths.0.retain(|(k, _)| !names(k, registry));
        before != self.auths.0.len()
    }

    /// As docker writes it: indented with tabs.
    pub(super) fn to_text(&self) -> String {
        let mut all = self.all.clone();
        if let Ok(auths) = RawValue::from_string(pretty(&self.auths, 1)) {
            all.set("auths", auths);
        }
        pretty(&all, 0) + "\n"
    }
}

/// A member, `Some(None)` where there is none or it is null; `None` where it is of another type.
fn member<T: DeserializeOwned>(object: &Object, name: &str) -> Option<Option<T>> {
    match object.get(name) {
        None => Some(None),
        Some(value) => serde_json::from_str(value.get()).ok(),
    }
}

/// An object with each member on a line of its own, `depth` levels deep in another one.
fn pretty(object: &Object, depth: usize) -> String {
    if object.0.is_empty() {
        return "{}".to_owned();
    }
    let indent = "\t".repeat(depth + 1);
    let quoted = |key: &str| serde_json::Value::from(key).to_string();
    let lines: Vec<String> =
        object.0.iter().map(|(key, value)| format!("{indent}{}: {}", quoted(key), value.get())).collect();
    format!("{{\n{}\n{}}}", lines.join(",\n"), "\t".repeat(depth))
}

/// Whether a key of `auths` is that of the registry as a whole.
fn names(key: &str, registry: &str) -> bool {
    let host = normal(key);
    host == registry || (is_hub(&host) && is_hub(registry))
}

/// The host in a key: what old dockers wrote around it is dropped. A key with a path, which is a repository's, stays.
fn normal(key: &str) -> Cow<'_, str> {
    if let Some(rest) = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")) {
        return rest.split('/').next().unwrap_or_default().into();
    }
    match key.split_once('/') {
        Some((host, "" | "v1" | "v1/" | "v2" | "v2/")) => host.into(),
        _ => key.into(),
    }
}

fn secret_of(path: &Path, key: &str, value: &RawValue) -> Result<Option<Secret>, CredentialsError> {
    let malformed = |problem: &str| CredentialsError::Malformed {
        path: path.to_owned(),
        problem: format!("its entry {:?} {problem}", crate::answer::show(key, 200)),
    };
    let entry: Entry = serde_json::from_str(value.get()).map_err(|_| malformed("is not an object of strings"))?;
    if let Some(token) = entry.identitytoken.filter(|t| !t.is_empty()) {
        return Ok(Some(Secret::Identity(token)));
    }
    if let Some(auth) = entry.auth.filter(|a| !a.is_empty()) {
        let bytes = LENIENT.decode(auth.trim()).map_err(|_| malformed("is not base64"))?;
        let text = String::from_utf8(bytes).map_err(|_| malformed("is not base64 of UTF-8"))?;
        let (user, password) = text.split_once(':').ok_or_else(|| malformed("is not base64 of user:password"))?;
        let password = password.trim_end_matches('\0');
        return Ok(Some(Secret::Password { user: user.to_owned(), password: password.to_owned() }));
    }
    match (entry.username, entry.password) {
        (Some(user), Some(password)) if !user.is_empty() => Ok(Some(Secret::Password { user, password })),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Document, CredentialsError> {
        Document::parse(Path::new("/x/config.json"), text)
    }

    fn found(text: &str, registry: &str, repository: &str) -> Option<String> {
        let document = parse(text).unwrap();
        document.secret(Path::new("/x"), registry, repository).unwrap().map(|secret| match secret {
            Secret::Password { user, password } => format!("{user}:{password}"),
            Secret::Identity(token) => format!("token {token}"),
        })
    }

    fn auths(entries: &[(&str, &str)]) -> String {
        let entries: Vec<String> = entries
            .iter()
            .map(|(key, user)| format!(r#""{key}":{{"auth":"{}"}}"#, STANDARD.encode(format!("{user}:p:w"))))
            .collect();
        format!(r#"{{"auths":{{{}}}}}"#, entries.join(","))
    }

    #[test]
    fn keys_are_found_as_docker_and_podman_write_them() {
        let cases = [
            ("https://index.docker.io/v1/", "docker.io", true),
            ("index.docker.io/v1/", "docker.io", true),
            ("docker.io", "docker.io", true),
            ("index.docker.io", "docker.io", true),
            ("https://r.example", "r.example", true),
            ("http://r.example/v2/", "r.example", true),
            ("r.example/", "r.example", true),
            ("r.example:5000", "r.example:5000", true),
            ("r.example", "r.example:5000", false),
            ("r.example:5000", "r.example", false),
            ("r.example/a", "r.example", true),
            ("r.example/a/b", "r.example", true),
            ("r.example/a/b/c", "r.example", false),
            ("r.example/ab", "r.example", false),
            ("evil.example", "r.example", false),
            ("r.example.evil", "r.example", false),
        ];
        for (key, registry, there) in cases {
            let found = found(&auths(&[(key, "me")]), registry, "a/b");
            assert_eq!(found.as_deref() == Some("me:p:w"), there, "{key} for {registry}: {found:?}");
        }
    }

    #[test]
    fn the_longest_key_wins() {
        let text = auths(&[("r.example", "all"), ("r.example/a/b", "repository"), ("r.example/a", "team")]);
        assert_eq!(found(&text, "r.example", "a/b").unwrap(), "repository:p:w");
        assert_eq!(found(&text, "r.example", "a/c").unwrap(), "team:p:w");
        assert_eq!(found(&text, "r.example", "x").unwrap(), "all:p:w");
    }

    #[test]
    fn other_forms_of_an_entry() {
        let text = r#"{"auths":{
            "t.example":{"auth":"bTpw","identitytoken":"secret"},
            "u.example":{"username":"u","password":"p"},
            "n.example":{"auth":"bTpw"},
            "nul.example":{"auth":"bTpwAAA="},
            "empty.example":{}}}"#;
        let cases = [("t", "token secret"), ("u", "u:p"), ("n", "m:p"), ("nul", "m:p")];
        for (host, expected) in cases {
            assert_eq!(found(text, &format!("{host}.example"), "a").as_deref(), Some(expected));
        }
        assert_eq!(found(text, "empty.example", "a"), None);
        for empty in ["", "{}", " \n", r#"{"auths":null,"credsStore":null}"#] {
            assert_eq!(found(empty, "r.example", "a"), None);
        }
    }

    #[test]
    fn what_is_malformed_is_named_without_its_secrets() {
        for text in ["{", "[]", "7", r#"{"auths":[]}"#, r#"{"credHelpers":"secret"}"#, r#"{"credsStore":{}}"#] {
            let error = parse(text).unwrap_err();
            let shown = error.to_string();
            assert!(shown.contains("/x/config.json") && !shown.contains("secret"), "{shown}");
        }
        for entry in [r#""secret""#, r#"{"auth":"!secret!"}"#, r#"{"auth":"c2VjcmV0"}"#, r#"{"auth":"/w=="}"#] {
            let document = parse(&format!(r#"{{"auths":{{"r.example":{entry}}}}}"#)).unwrap();
            let error = document.secret(Path::new("/x"), "r.example", "a").unwrap_err().to_string();
            assert!(error.contains("r.example") && !error.contains("secret") && !error.contains("c2Vj"), "{error}");
        }
    }

    #[test]
    fn programs_are_found() {
        let text = r#"{"credsStore":"all","credHelpers":{"r.example":"own","index.docker.io":"hub"}}"#;
        let document = parse(text).unwrap();
        assert_eq!(document.helper("r.example").as_deref(), Some("own"));
        assert_eq!(document.helper("docker.io").as_deref(), Some("hub"));
        assert_eq!(document.helper("s.example").as_deref(), Some("all"));
        assert_eq!(parse("{}").unwrap().helper("r.example"), None);
    }

    #[test]
    fn what_else_is_in_the_file_stays_as_it_was() {
        let text = "{\n\t\"zeta\": {\"b\":1,   \"a\":2},\n\t\"auths\": {\n\t\t\"z.example\": {\n\t\t\t\"auth\": \
                    \"bTpw\",\n\t\t\t\"extra\": true\n\t\t},\n\t\t\"a.example\": {}\n\t},\n\t\"alpha\": [1.50]\n}\n";
        let mut document = parse(text).unwrap();
        assert_eq!(document.to_text(), text);
        document.set("docker.io", "me", "pw");
        let expected = text.replace(
            "\"a.example\": {}",
            "\"a.example\": {},\n\t\t\"https://index.docker.io/v1/\": {\n\t\t\t\"auth\": \"bWU6cHc=\"\n\t\t}",
        );
        assert_eq!(document.to_text(), expected);
        assert!(document.remove("docker.io"));
        assert!(!document.remove("docker.io"));
        assert_eq!(document.to_text(), text);
    }

    #[test]
    fn a_login_replaces_older_keys_of_the_same_registry() {
        let mut document = parse(&auths(&[("https://r.example/v1/", "old"), ("r.example/a", "team")])).unwrap();
        document.set("r.example", "new", "p");
        let text = document.to_text();
        assert_eq!(found(&text, "r.example", "x").unwrap(), "new:p");
        assert_eq!(found(&text, "r.example", "a").unwrap(), "team:p:w");
        assert!(!text.contains("https://r.example"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_named(text in "\\PC{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn any_entry_is_read_or_named(key in "\\PC{0,30}", entry in any::<String>()) {
            let value = serde_json::json!({ "auths": { key: { "auth": entry } } });
            let _ = parse(&value.to_string()).unwrap().secret(Path::new("/x"), "r.example", "a");
        }

        #[test]
        fn what_is_kept_is_found(user in "[^:\u{0}]{1,20}", password in "[^\u{0}]{0,30}", registry in "[a-z]{1,8}\\.example(:[0-9]{1,4})?") {
            let mut document = parse("").unwrap();
            document.set(&registry, &user, &password);
            let secret = parse(&document.to_text()).unwrap().secret(Path::new("/x"), &registry, "a/b").unwrap();
            prop_assert_eq!(secret, Some(Secret::Password { user, password }));
        }
    }
}
