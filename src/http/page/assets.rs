//! The files of the page, by name.

use delayd_core::ids::Digest;

/// One file.
#[derive(Debug)]
pub(super) struct Asset {
    name: &'static str,
    /// Its content.
    pub(super) text: &'static str,
}

impl Asset {
    /// Its entity tag: the digest of what it holds, in short.
    pub(super) fn tag(&self) -> String {
        format!("\"{}\"", Digest::of(self.text.as_bytes()).short())
    }

    /// Its content type.
    pub(super) fn kind(&self) -> &'static str {
        match self.name.rsplit_once('.').map(|(_, ending)| ending) {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "application/octet-stream",
        }
    }
}

macro_rules! assets {
    ($($name:literal),* $(,)?) => {
        /// Every file, with its path below `/page/`.
        static ASSETS: &[Asset] = &[$(Asset { name: $name, text: include_str!($name) }),*];
    };
}

/// What is served at `/`.
pub(super) static INDEX: Asset = Asset { name: "index.html", text: include_str!("index.html") };

assets![
    "api.js",
    "base.css",
    "charts.css",
    "charts/diagrams.js",
    "charts/features.js",
    "charts/line.js",
    "charts/scale.js",
    "commands.js",
    "diagrams.css",
    "dom.js",
    "forms.css",
    "icon.svg",
    "main.js",
    "metrics.js",
    "parts.css",
    "parts.js",
    "store.js",
    "theme.js",
    "views/alerts.js",
    "views/compare.js",
    "views/cycles.js",
    "views/datasets.js",
    "views/decisions.js",
    "views/models.js",
    "views/monitoring.js",
    "views/overview.js",
    "views/runs.js",
    "views/service.js",
];

/// The file of a name.
pub(super) fn asset(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn files(folder: &Path, below: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{below}{}", entry.file_name().to_string_lossy());
            if entry.file_type().unwrap().is_dir() {
                files(&entry.path(), &format!("{name}/"), found);
            } else if !name.ends_with(".rs") && name != INDEX.name {
                found.push(name);
            }
        }
    }

    #[test]
    fn every_file_beside_the_code_is_served() {
        let mut found = Vec::new();
        files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/page"), "", &mut found);
        found.sort();
        let served: Vec<&str> = ASSETS.iter().map(|asset| asset.name).collect();
        assert_eq!(found, served);
    }

    #[test]
    fn no_file_names_another_host_and_none_makes_markup_of_data() {
        for asset in ASSETS.iter().chain([&INDEX]) {
            let text = asset.text.replace("http://www.w3.org/", "");
            for forbidden in [
                "http://",
                "https://",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "style=\"",
            ] {
                assert!(!text.contains(forbidden), "{} has {forbidden}", asset.name);
            }
        }
        assert!(!INDEX.text.contains("<style") && !INDEX.text.contains("onclick"));
    }

    #[test]
    fn every_import_leads_to_a_file_that_is_served() {
        for asset in ASSETS.iter().filter(|asset| asset.name.ends_with(".js")) {
            let folder = asset.name.rsplit_once('/').map_or("", |(folder, _)| folder);
            for import in asset.text.split("from \"").skip(1).filter_map(|rest| rest.split('"').next()) {
                let path = match import.strip_prefix("../") {
                    Some(above) => above.to_owned(),
                    None => format!("{folder}/{}", import.trim_start_matches("./")).trim_start_matches('/').to_owned(),
                };
                assert!(super::asset(&path).is_some(), "{} imports {import}, which is not served", asset.name);
            }
        }
    }

    #[test]
    fn every_module_is_loaded_at_once_and_not_import_by_import() {
        for asset in ASSETS {
            let link = format!("href=\"/page/{}\"", asset.name);
            let script = format!("src=\"/page/{}\"", asset.name);
            assert!(INDEX.text.contains(&link) || INDEX.text.contains(&script), "index.html has no {}", asset.name);
        }
    }

    #[test]
    fn no_module_outgrows_its_reader() {
        for asset in ASSETS {
            let lines = asset.text.lines().count();
            assert!(lines <= 500, "{} has {lines} lines", asset.name);
        }
    }
}
