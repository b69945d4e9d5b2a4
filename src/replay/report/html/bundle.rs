//! What makes the report's file draw without a network: the style sheets and chart
//! modules of the daemon's page, and the report's own, each as one text.
//!
//! A module becomes a function that answers what the module exports, because modules
//! cannot import each other within one file.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

const STYLES: [&str; 4] = [
    include_str!("../../../http/page/base.css"),
    include_str!("../../../http/page/parts.css"),
    include_str!("../../../http/page/charts.css"),
    include_str!("report.css"),
];

macro_rules! modules {
    ($($path:literal),* $(,)?) => { [$(($path, include_str!($path))),*] };
}

/// Every module after those that it imports.
const MODULES: [(&str, &str); 10] = modules![
    "../../../http/page/dom.js",
    "../../../http/page/parts.js",
    "../../../http/page/charts/scale.js",
    "../../../http/page/charts/line.js",
    "../../../http/page/charts/features.js",
    "weeks.js",
    "drift.js",
    "reliability.js",
    "timings.js",
    "report.js",
];

pub(super) fn style() -> String {
    STYLES.concat()
}

pub(super) fn script() -> String {
    let modules: String = MODULES.iter().map(|(path, text)| function(path, text)).collect();
    format!("\"use strict\";\nconst modules = {{}};\n{modules}")
}

/// Nothing but this very script and style sheet: what is added to the file does not run.
pub(super) fn policy(script: &str, style: &str) -> String {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    format!(
        "default-src 'none'; script-src {}; style-src {}; base-uri 'none'; form-action 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        hash(script),
        hash(style)
    )
}

/// The file's name, by which a module is known here.
fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// `import { a } from "./x.js"` becomes `const { a } = modules["x.js"]`, and what is exported is answered.
fn function(path: &str, text: &str) -> String {
    let mut exports = Vec::new();
    let mut body = String::with_capacity(text.len());
    for line in text.lines() {
        let line = if let Some(declaration) = line.strip_prefix("export ") {
            let declared = declaration.trim_start_matches("const ").trim_start_matches("function ");
            exports.extend(declared.split(|letter: char| !letter.is_alphanumeric()).next());
            declaration.to_owned()
        } else if let Some((names, from)) = imported(line) {
            format!("{} = modules[\"{}\"];", names.replacen("import ", "const ", 1), name(from))
        } else {
            line.replacen("import {", "const {", usize::from(line == "import {"))
        };
        body.push_str(&line);
        body.push('\n');
    }
    format!("modules[\"{}\"] = (() => {{\n{body}return {{ {} }};\n}})();\n", name(path), exports.join(", "))
}

/// The end of an import: what stands before its `from`, and the path.
fn imported(line: &str) -> Option<(&str, &str)> {
    let (names, from) = line.strip_suffix("\";")?.split_once(" from \"")?;
    (names.starts_with("import {") || names == "}").then_some((names, from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_becomes_a_function() {
        let text = "import { a } from \"../x.js\";\nimport {\n  b,\n} from \"./y.js\";\nexport const c = a;\nexport function d() {}\n";
        assert_eq!(
            function("z.js", text),
            "modules[\"z.js\"] = (() => {\nconst { a } = modules[\"x.js\"];\nconst {\n  b,\n} = modules[\"y.js\"];\n\
             const c = a;\nfunction d() {}\nreturn { c, d };\n})();\n"
        );
    }

    #[test]
    fn every_import_is_of_a_module_before() {
        for (index, (path, text)) in MODULES.iter().enumerate() {
            for import in text.lines().filter_map(imported).map(|(_, from)| name(from)) {
                assert!(MODULES[..index].iter().any(|(path, _)| name(path) == import), "{path} imports {import}");
            }
        }
        let script = script();
        for left in ["\nimport ", "\nexport ", "import(", " as api", "</script"] {
            assert!(!script.contains(left), "`{left}` in the script");
        }
        assert!(!style().contains("</style"));
    }
}
