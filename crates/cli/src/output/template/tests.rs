use proptest::prelude::*;
use serde_json::json;

use super::*;

fn made(template: &str, value: &Value) -> String {
    let template = Template::parse(template, Escapes::Meant).unwrap_or_else(|e| panic!("{template}: {e}"));
    template.render(value).unwrap_or_else(|e| e.to_string())
}

fn refused(template: &str) -> String {
    match Template::parse(template, Escapes::Meant) {
        Ok(template) => template.render(&sample()).expect_err("an error").to_string(),
        Err(error) => error.to_string(),
    }
}

fn sample() -> Value {
    json!({
        "ID": "sha256:0123", "Tag": "v1", "Size": 12, "Empty": [], "Null": null, "On": true,
        "List": ["a", "b", "c"], "Config": { "Labels": { "a.b": "c", "x": "y" }, "Cmd": ["sh", "-c"] },
        "Label": { "a.b": "c", "x": "y" }, "Mounts": [{ "Source": "/a" }, { "Source": "/b" }],
    })
}

#[test]
fn what_people_write() {
    let value = sample();
    for (template, expected) in [
        ("plain", "plain"),
        ("{{.ID}}: {{.Tag}}", "sha256:0123: v1"),
        (r"{{.ID}}\t{{.Tag}}\n", "sha256:0123\tv1\n"),
        ("{{.Config.Cmd}}", "[sh -c]"),
        ("{{.Config.Labels}}", "map[a.b:c x:y]"),
        ("{{json .Config.Cmd}}", r#"["sh","-c"]"#),
        ("{{json .Config.Labels}}", r#"{"a.b":"c","x":"y"}"#),
        ("{{.Tag | upper}} {{upper .Tag | lower}} {{title \"two words\"}}", "V1 v1 Two Words"),
        ("{{len .List}} {{len .ID}} {{len .Null}}", "3 11 0"),
        (r#"{{index .Config.Labels "a.b"}}{{index .Config.Labels "no"}}{{index .Null "x"}}"#, "c"),
        ("{{index .List 1}} {{(index .Mounts 0).Source}}", "b /a"),
        ("{{range .List}}<{{.}}>{{end}}", "<a><b><c>"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range $i, $e := .List}}{{if $i}}, {{end}}{{$i}}={{$e}}{{end}}", "0=a, 1=b, 2=c"),
        ("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}};{{end}}", "a.b:c;x:y;"),
        ("{{range .Mounts}}{{.Source}} {{$.Tag}} {{end}}", "/a v1 /b v1 "),
        ("{{if .On}}yes{{else}}no{{end}}{{if .Null}}yes{{else if .Empty}}maybe{{else}}no{{end}}", "yesno"),
        ("{{if and .On (eq .Tag \"v1\" \"v2\")}}1{{end}}{{if or .Null (not .On)}}2{{end}}", "1"),
        ("{{and .On .Tag}} {{or .Null .Tag}}", "v1 v1"),
        ("{{lt .Size 13}} {{ge .Size 12.5}} {{ne .Tag \"v1\"}} {{gt \"b\" \"a\"}}", "true false false true"),
        ("{{with .Config}}{{.Cmd}}{{end}}{{with .Null}}x{{else}}y{{end}}", "[sh -c]y"),
        ("{{with $c := .Config}}{{$c.Cmd}}{{end}}", "[sh -c]"),
        ("{{$x := 1}}{{range .List}}{{$x = .}}{{end}}{{$x}}", "c"),
        ("{{join .List \",\"}} {{split \"a-b\" \"-\"}}", "a,b,c [a b]"),
        ("{{truncate .ID 6}} {{slice .ID 7}} {{slice .List 1 2}} [{{pad .Tag 1 2}}]", "sha256 0123 [b] [ v1  ]"),
        ("{{println .Tag .Size}}{{print 1 2 \"x\" 3}}", "v1 12\n1 2x3"),
        (
            r#"{{printf "%-5s|%3d|%q|%.2s|%05d|%%|%v" .Tag .Size .Tag .ID .Size .On}}"#,
            "v1   | 12|\"v1\"|sh|00012|%|true",
        ),
        ("a {{- .Tag -}} b {{- /* nothing */ -}} c", "av1bc"),
        ("{{/* a comment */}}x", "x"),
        ("{{.Null}} {{.Null.Deeper}}", "<no value> <no value>"),
        (r#"{{"\"q\" \x41\u00e9\n"}}{{`raw \n`}}"#, "\"q\" A\u{e9}\nraw \\n"),
        (r#"{{.Label "a.b"}}{{.Label "no"}}{{(.Label "x") | upper}}"#, "cY"),
        ("{{true}} {{nil}} {{-3}} {{1.5}}", "true <no value> -3 1.5"),
        ("}} {{\"}}\"}}", "}} }}"),
    ] {
        assert_eq!(made(template, &value), expected, "{template}");
    }
    let kept = Template::parse(r"{{.Tag}}\t", Escapes::Literal).unwrap();
    assert_eq!(kept.render(&value).unwrap(), r"v1\t");
}

#[test]
fn what_is_refused() {
    for (template, expected) in [
        ("{{.ID", "character 1: this {{ is not closed by }}"),
        ("ab{{}}", "character 3: an action is empty"),
        ("{{.Nothing}}", "character 3: there is no field .Nothing; there are: .Config, .Empty, .ID,"),
        ("{{.Tag.Deeper}}", "character 3: a text has no field .Deeper"),
        ("{{frob .ID}}", "character 3: there is no function \"frob\", only and, eq,"),
        ("{{.ID .Tag}}", "only a function can be given values"),
        ("{{.Label \"a\" \"b\"}}", "only a function can be given values"),
        ("{{.ID | .Tag}}", "behind | there must be a function"),
        ("{{.ID |}}", "a value is missing here"),
        ("{{upper .Size}}", "character 3: upper: it takes a text, not a number"),
        ("{{upper}}", "upper: it takes a text, not nothing"),
        ("{{printf \"%d\" .Tag}}", "printf: %d cannot print a text"),
        ("{{printf \"%y\" .Tag}}", "%y is not supported"),
        ("{{printf \"%9999s\" .Tag}}", "%9999 is no width"),
        ("{{index .List 7}}", "index: there is no 7 in a list of 3"),
        ("{{index .Size 7}}", "index: a number has no 7"),
        ("{{slice .ID 9 3}}", "slice: there is no part from 9 to 3"),
        ("{{lt .ID .Size}}", "lt: a text and a number cannot be compared"),
        ("{{if .On}}", "character 6: this block has no {{end}}"),
        ("{{end}}", "character 3: {{end}} ends nothing"),
        ("{{if .On}}{{else}}{{else}}{{end}}", "only one {{else}}"),
        ("{{range .List}}{{else if .On}}{{end}}", "{{else if}} is not possible here"),
        ("{{define \"x\"}}{{end}}", "{{define}} is not supported"),
        ("{{break}}", "{{break}} is not supported"),
        ("{{$x}}", "there is no variable $x"),
        ("{{if .On}}{{$x := 1}}{{end}}{{$x}}", "there is no variable $x"),
        ("{{$a, $b := .List}}", "only range takes two variables"),
        ("{{\"abc}}", "character 3: this text is not closed"),
        ("{{\"\\y\"}}", "unknown escape \\y"),
        ("{{(.ID}}", "this ( is not closed by )"),
        ("{{.ID)}}", "unexpected )"),
        ("{{range .Size}}{{end}}", "range takes a list or an object, not a number"),
        ("{{.ID & .Tag}}", "unexpected '&'"),
        ("{{12x}}", "\"12x\" is not a number"),
    ] {
        let found = refused(template);
        assert!(found.contains(expected), "{template}: {found}");
    }
    assert!(refused(&"x".repeat(LENGTH_MAX + 1)).contains("longer than"));
    let nested = [
        "{{if .On}}".repeat(40),
        format!("{{{{if .On}}}}{}", "{{else if .On}}".repeat(40)),
        format!("{{{{len {}.ID{}}}}}", "(len ".repeat(40), ")".repeat(40)),
    ];
    for template in nested {
        let found = refused(&template);
        assert!(found.contains("levels deep"), "{template}: {found}");
    }
}

#[test]
fn titles_of_columns() {
    let titles = json!({ "ID": "IMAGE ID", "Tag": "TAG", "Labels": "LABELS" });
    for (template, expected) in [
        ("{{.ID}}\t{{upper .Tag}}", "IMAGE ID\tTAG"),
        ("{{json .Tag}} {{truncate .ID 3}} {{.Tag | len}}", "TAG IMAGE ID TAG"),
        ("{{if .ID}}{{.Tag}}{{end}} {{range .Labels}}{{.}}{{end}}", "TAG LABELS"),
        ("{{printf \"%-6s\" .Tag}} {{join .Labels \",\"}} {{.Labels.Inner}}", "TAG    LABELS LABELS"),
    ] {
        assert_eq!(Template::parse(template, Escapes::Meant).unwrap().header(&titles).unwrap(), expected, "{template}");
    }
}

#[test]
fn templates_that_grow_are_stopped() {
    let list: Vec<u32> = (0..3000).collect();
    let value = json!({ "L": list });
    for (template, problem) in [
        ("{{$x := \"ab\"}}{{range .L}}{{$x = print $x $x}}{{end}}", "too much text"),
        ("{{$x := \"\\n\"}}{{range .L}}{{$x = json $x}}{{end}}", "too much text"),
        ("{{range .L}}{{$x := $.L}}{{range $x}}{{end}}{{end}}", "too"),
        ("{{range .L}}{{range $.L}}{{.}}{{end}}{{end}}", "too"),
    ] {
        let found = made(template, &value);
        assert!(found.contains(problem), "{template}: {}", &found[..found.len().min(200)]);
    }
}

/// Pieces that make valid templates more often than characters do.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{{",
        "}}",
        "{{-",
        "-}}",
        " ",
        ".",
        ".ID",
        ".List",
        ".Config",
        ".Cmd",
        "$",
        "$x",
        ":=",
        "=",
        ",",
        "|",
        "(",
        ")",
        "range",
        "if",
        "else",
        "end",
        "with",
        "json",
        "len",
        "index",
        "print",
        "printf",
        "join",
        "split",
        "slice",
        "\"%s\"",
        "\"",
        "`",
        "0",
        "1",
        "-7",
        "1e400",
        "x",
        "{{end}}",
        "{{range .List}}",
        "{{if .On}}",
        "{{else}}",
        "{{.ID}}",
        "{{$x := .}}",
        "/*",
        "*/",
        "é",
        "\\",
        "\n",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_is_a_template_or_an_error(text in "\\PC{0,60}") {
        if let Ok(template) = Template::parse(&text, Escapes::Meant) {
            let _ = template.render(&sample());
        }
    }

    #[test]
    fn any_pieces_are_a_template_or_an_error(text in pieces()) {
        if let Ok(template) = Template::parse(&text, Escapes::Literal) {
            let _ = template.render(&sample());
            let _ = template.header(&json!({ "ID": "IMAGE ID", "List": "LIST" }));
        }
    }

    #[test]
    fn text_without_actions_is_itself(text in "[^{}\\\\]{0,60}") {
        prop_assert_eq!(made(&text, &json!(null)), text);
    }
}
