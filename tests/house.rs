//! The shape of the workspace: which crate may depend on which, read from `cargo metadata`.

use std::{collections::BTreeMap, fs};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .exec()
        .expect("cargo metadata")
}

/// What a crate of ours may build on, by the folder it is in. Whoever adds a crate says here where it stands.
const ALLOWED: &[(&str, &[&str])] = &[
    ("idempotency-core", &[]),
    ("idempotency-engine", &["idempotency-core"]),
    ("idempotency-tracker", &["idempotency-core", "idempotency-engine"]),
    ("idempotency-store-memory", &["idempotency-core"]),
    ("idempotency-frame", &["idempotency-core"]),
    ("idempotency-store-redb", &["idempotency-core", "idempotency-frame"]),
    ("idempotency-store-postgres", &["idempotency-core"]),
    ("idempotency-store-redis", &["idempotency-core"]),
    ("idempotency-store-testkit", &["idempotency-core"]),
    ("idempotency-http", &["idempotency-core"]),
    ("idempotency-actix-web", &["idempotency-core", "idempotency-http", "idempotency-tracker"]),
    ("idempotency-tower", &["idempotency-core", "idempotency-http", "idempotency-tracker"]),
    (
        "idempotency",
        &[
            "idempotency-core",
            "idempotency-tracker",
            "idempotency-store-memory",
            "idempotency-store-redb",
            "idempotency-store-postgres",
            "idempotency-store-redis",
            "idempotency-actix-web",
            "idempotency-tower",
        ],
    ),
    ("idempotency-examples", &[]),
    // The node that its tests kill is a program.
    ("idempotency-tests", &["idempotency", "idempotency-store-testkit"]),
    ("xtask", &[]),
];

/// What must not be below a crate, at any depth: runtimes and actors where decisions are pure.
const NOWHERE_BELOW: &[(&str, &[&str])] = &[
    ("idempotency-core", &["tokio", "actix", "actix-rt", "rand"]),
    ("idempotency-engine", &["tokio", "actix", "actix-rt", "rand", "tracing"]),
    ("idempotency-store-memory", &["tokio", "actix", "actix-rt"]),
    ("idempotency-store-redb", &["tokio", "actix", "actix-rt"]),
    ("idempotency-store-postgres", &["actix", "actix-rt"]),
    ("idempotency-store-redis", &["actix", "actix-rt"]),
    ("idempotency-frame", &["tokio", "actix", "actix-rt"]),
    ("idempotency-http", &["tokio", "actix", "actix-rt", "actix-web", "tower", "axum", "hyper"]),
    ("idempotency-tower", &["actix-web", "axum"]),
    ("idempotency-actix-web", &["axum", "tower-service"]),
];

/// The edges that point the wrong way.
fn wrong_ways<'a>(edges: impl IntoIterator<Item = (&'a str, &'a str)>, ours: &[&str]) -> Vec<String> {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    edges
        .into_iter()
        .filter(|(_, to)| ours.contains(to))
        .filter(|(from, to)| !allowed.get(from).is_some_and(|below| below.contains(to)))
        .map(|(from, to)| format!("{from} must not depend on {to}"))
        .collect()
}

fn ours(metadata: &Metadata) -> Vec<&Package> {
    metadata.workspace_packages()
}

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    let names: Vec<&str> = ours(&metadata).iter().map(|package| package.name.as_str()).collect();
    for name in &names {
        assert!(ALLOWED.iter().any(|(known, _)| known == name), "{name} is new: say where it stands");
    }
    let edges = ours(&metadata).into_iter().flat_map(|package| {
        let normal =
            package.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal);
        normal.map(|dependency| (package.name.as_str(), dependency.name.as_str()))
    });
    assert_eq!(wrong_ways(edges, &names), Vec::<String>::new());
}

#[test]
fn a_dependency_that_points_the_wrong_way_is_found() {
    let ours = ["idempotency-core", "idempotency-engine", "idempotency-store-memory", "idempotency-tracker"];
    for wrong in [
        ("idempotency-core", "idempotency-engine"),
        ("idempotency-engine", "idempotency-tracker"),
        ("idempotency-store-memory", "idempotency-tracker"),
        ("idempotency-tracker", "idempotency-store-memory"),
    ] {
        assert_eq!(wrong_ways([wrong], &ours).len(), 1, "{wrong:?}");
    }
    assert!(
        wrong_ways([("idempotency-engine", "idempotency-core"), ("idempotency-core", "bytes")], &ours)
            .is_empty()
    );
}

/// By default features: `core` may follow tokio's clock where somebody else brings tokio.
fn below<'a>(metadata: &'a Metadata, root: &str) -> Vec<&'a str> {
    let package = |name: &str| metadata.packages.iter().find(|package| package.name.as_str() == name);
    let mut found = vec![];
    let mut to_visit = vec![root.to_owned()];
    while let Some(name) = to_visit.pop() {
        let Some(package) = package(&name) else { continue };
        for dependency in &package.dependencies {
            let normal = dependency.kind == DependencyKind::Normal && !dependency.optional;
            if normal && !found.contains(&dependency.name.as_str()) {
                found.push(dependency.name.as_str());
                to_visit.push(dependency.name.clone());
            }
        }
    }
    found
}

#[test]
fn where_decisions_are_pure_there_is_no_runtime_and_no_actor() {
    let metadata = metadata();
    for (root, nowhere) in NOWHERE_BELOW {
        let below = below(&metadata, root);
        assert!(below.contains(&"time"), "{root} uses something: {below:?}");
        for name in *nowhere {
            assert!(!below.contains(name), "{root} must not depend on {name}");
        }
    }
    assert!(below(&metadata, "idempotency-tracker").contains(&"actix"), "the one crate on actix");
}

#[test]
fn the_rust_version_is_the_lowest_that_the_dependencies_allow() {
    let metadata = metadata();
    let is_ours = |package: &&Package| metadata.workspace_members.contains(&package.id);
    let own =
        metadata.packages.iter().find(is_ours).and_then(|package| package.rust_version.clone()).unwrap();
    let needed = metadata.packages.iter().filter(|package| !is_ours(package));
    let highest = needed.filter_map(|package| package.rust_version.clone()).max().unwrap();
    assert_eq!((own.major, own.minor), (highest.major, highest.minor));
    for package in ours(&metadata) {
        assert_eq!(package.rust_version.as_ref(), Some(&own), "{} says so too", package.name);
    }
}

#[test]
fn every_version_stands_in_the_workspace_and_every_crate_obeys_its_lints() {
    for package in ours(&metadata()) {
        let manifest = fs::read_to_string(&package.manifest_path).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{}", package.name);
        let mut in_dependencies = false;
        for line in manifest.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]");
            } else if in_dependencies {
                assert!(line.contains("workspace"), "{}: `{line}` has a version of its own", package.name);
            }
        }
    }
}

#[test]
fn only_examples_and_binaries_read_the_environment() {
    for package in ours(&metadata()).into_iter().filter(|package| package.publish.is_none()) {
        let src = package.manifest_path.parent().unwrap().join("src");
        for file in rust_files(src.as_std_path()) {
            let text = fs::read_to_string(&file).unwrap();
            assert!(!text.contains("env::var"), "{} reads the environment", file.display());
        }
    }
}

fn rust_files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let below = folders.iter().flat_map(|folder| rust_files(folder));
    files.into_iter().filter(|path| path.extension().is_some_and(|it| it == "rs")).chain(below).collect()
}

#[test]
fn every_guarantee_names_a_test_that_there_is() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let page = fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    let sources: Vec<String> = ["crates", "tests"]
        .iter()
        .flat_map(|folder| rust_files(&root.join(folder)))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    assert!(rows.len() >= 20, "{} lines", rows.len());
    for row in rows {
        let test = row.rsplit('`').nth(1).unwrap();
        let function = format!("fn {test}");
        assert!(sources.iter().any(|source| source.contains(&function)), "there is no test {test}");
    }
}
