//! Java and Maven as found on this machine, and what to do when they are not.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
};

use super::say;

const WAY_OUT: &str = "install it (Debian: `apt-get install openjdk-17-jre-headless maven`), or set WDT_TEST_KAFKA=host:port to test against \
                       a Kafka of your own (and WDT_TEST_REGISTRY=url for the schema registry)";

/// The `java` program: of `JAVA_HOME` where set, else of the path.
pub fn java() -> Command {
    static PROGRAM: OnceLock<Result<String, String>> = OnceLock::new();
    match PROGRAM.get_or_init(find_java) {
        Ok(program) => Command::new(program),
        Err(sentence) => panic!("{sentence}"),
    }
}

fn find_java() -> Result<String, String> {
    let program = match std::env::var("JAVA_HOME") {
        Ok(home) if !home.is_empty() => format!("{home}/bin/java"),
        _ => "java".to_owned(),
    };
    let said = Command::new(&program).arg("-version").stdin(Stdio::null()).output().map_err(|fault| {
        format!("the tests run a real Kafka and need Java 17 or later, but `{program}` does not start ({fault}): {WAY_OUT}")
    })?;
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    match major_version(&text) {
        Some(major) if major >= 17 => Ok(program),
        Some(major) => Err(format!(
            "the tests run a real Kafka and need Java 17 or later, but `{program}` is Java {major}: {WAY_OUT}"
        )),
        None => Err(format!(
            "`{program} -version` does not say a version ({}); Java 17 or later is needed: {WAY_OUT}",
            text.trim()
        )),
    }
}

/// `openjdk version "17.0.15" 2025-04-15` → 17; `"1.8.0_392"` → 8.
fn major_version(text: &str) -> Option<u32> {
    let quoted = text.split('"').nth(1)?;
    let mut numbers = quoted.split(|sign: char| !sign.is_ascii_digit()).map(str::parse::<u32>);
    match numbers.next()?.ok()? {
        1 => numbers.next()?.ok(),
        major => Some(major),
    }
}

/// Runs Maven in `folder`; its progress goes to stderr as one line per 25 files, its whole output
/// only when it fails.
pub fn maven(folder: &Path, what: &str, arguments: &[String]) {
    let _ = java();
    say(&format!("fetching {what} through Maven into {} (once)", folder.display()));
    let mut child = Command::new("mvn")
        .current_dir(folder)
        .arg("-B")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap_or_else(|fault| panic!("the tests fetch {what} through Maven, but `mvn` does not start ({fault}): {WAY_OUT}"));
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut said = String::new();
    let mut files = 0_u32;
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        if line.contains("Downloaded from") {
            files += 1;
            if files.is_multiple_of(25) {
                say(&format!("  {what}: {files} files fetched"));
            }
        } else if !line.contains("Downloading from") && !line.contains("Progress (") {
            let _ = writeln!(said, "{line}");
        }
    }
    let status = child.wait().expect("Maven can be waited for");
    assert!(
        status.success(),
        "Maven could not fetch {what} ({status}); is Maven Central, or the mirror in its settings.xml, reachable? It said:\n{said}"
    );
    say(&format!("  {what}: done"));
}

#[test]
fn versions_of_java_are_read() {
    assert_eq!(major_version("openjdk version \"17.0.15\" 2025-04-15"), Some(17));
    assert_eq!(major_version("openjdk version \"21\" 2023-09-19"), Some(21));
    assert_eq!(major_version("java version \"1.8.0_392\""), Some(8));
    assert_eq!(major_version("no version here"), None);
}
