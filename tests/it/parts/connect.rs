//! A Kafka Connect worker with Debezium's transform and an Avro converter that speaks to the
//! registry: what stands between our change topics and many of their readers.

use std::{fs, path::PathBuf, process::Stdio};

use super::{
    broker, cache,
    guard::{self, Folder, Guarded},
    java, ports, registry,
};

const KAFKA: &str = "4.2.2";
/// The file sink is not published at the broker's version.
const FILE_SINK: &str = "4.2.0";
const DEBEZIUM: &str = "3.3.2.Final";
const CONVERTER: &str = "2.6.13.Final";
const LOG4J: &str = "2.25.5";

fn prepare() -> PathBuf {
    cache::once(&format!("connect-{KAFKA}-debezium-{DEBEZIUM}-{CONVERTER}"), |folder| {
        fs::write(folder.join("pom.xml"), pom()).expect("the cache can be written");
        let arguments = [
            "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies".to_owned(),
            "-DoutputDirectory=libs".to_owned(),
            "-DincludeScope=runtime".to_owned(),
        ];
        java::maven(
            folder,
            &format!("Kafka Connect {KAFKA} and Debezium {DEBEZIUM} (40 MB)"),
            &arguments,
        );
    })
}

fn pom() -> String {
    let dependencies: String = [
        ("org.apache.kafka", "connect-runtime", KAFKA),
        ("org.apache.kafka", "connect-file", FILE_SINK),
        ("io.debezium", "debezium-core", DEBEZIUM),
        ("io.apicurio", "apicurio-registry-utils-converter", CONVERTER),
        ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J),
    ]
    .iter()
    .map(|(group, artifact, version)| {
        format!("<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>\n")
    })
    .collect();
    format!(
        r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>wdt-connector</groupId><artifactId>test-connect</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
{dependencies}  </dependencies>
</project>
"#
    )
}

/// A worker with one sink: every record of the topics, through Debezium's `ExtractNewRecordState`,
/// as one line of a file.
#[derive(Debug)]
pub struct Worker {
    process: Guarded,
    folder: Folder,
}

impl Worker {
    /// Starts it on the shared broker and registry.
    pub fn start(topics: &[&str]) -> Self {
        let libs = prepare().join("libs");
        let folder = Folder::new("connect");
        let path = |name: &str| folder.join(name).display().to_string();
        // Its converter speaks the registry's own interface, beside the Confluent one.
        let own = registry().url().replace("/apis/ccompat/v7", "/apis/registry/v2");
        let worker = format!(
            "bootstrap.servers={}\n\
             listeners=http://127.0.0.1:{}\n\
             key.converter=org.apache.kafka.connect.storage.StringConverter\n\
             value.converter=io.apicurio.registry.utils.converter.AvroConverter\n\
             value.converter.apicurio.registry.url={own}\n\
             value.converter.apicurio.registry.as-confluent=true\n\
             value.converter.apicurio.registry.use-id=contentId\n\
             offset.storage.file.filename={}\n\
             offset.flush.interval.ms=1000\n\
             plugin.discovery=hybrid_warn\n\
             consumer.isolation.level=read_committed\n\
             consumer.auto.offset.reset=earliest\n",
            broker().bootstrap(),
            ports::free_port(),
            path("offsets"),
        );
        let sink = format!(
            "name=flattened\n\
             connector.class=org.apache.kafka.connect.file.FileStreamSinkConnector\n\
             tasks.max=1\n\
             topics={}\n\
             file={}\n\
             transforms=unwrap\n\
             transforms.unwrap.type=io.debezium.transforms.ExtractNewRecordState\n",
            topics.join(","),
            path("lines"),
        );
        let logging = "status=error\nappender.out.type=Console\nappender.out.name=out\nappender.out.layout.type=PatternLayout\n\
                       appender.out.layout.pattern=%d %-5p %m (%c{1})%n%throwable{12}\nrootLogger.level=warn\nrootLogger.appenderRef.out.ref=out\n";
        for (name, text) in [
            ("worker.properties", worker.as_str()),
            ("sink.properties", &sink),
            ("log4j2.properties", logging),
        ] {
            fs::write(folder.join(name), text).expect("a temporary file");
        }
        let log = fs::File::create(folder.join("worker.log")).expect("a temporary file");
        let errors = log.try_clone().expect("a file descriptor");
        let mut command = java::java();
        command
            .current_dir(folder.path())
            .args([
                "-Xmx256m",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-Duser.timezone=UTC",
                "-Duser.language=en",
            ])
            .arg(format!("-Dlog4j2.configurationFile={}", path("log4j2.properties")))
            .arg("-cp")
            .arg(libs.join("*"))
            .arg("org.apache.kafka.connect.cli.ConnectStandalone")
            .args([path("worker.properties"), path("sink.properties")])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        let process = guard::spawn(&mut command).expect("Java starts");
        Self { process, folder }
    }

    /// What was written so far, one record a line; panics with the worker's log when it has ended.
    pub fn lines(&mut self) -> Vec<String> {
        let log = || fs::read_to_string(self.folder.join("worker.log")).unwrap_or_default();
        if let Some(status) = self.process.exit() {
            panic!("the worker ended ({status}):\n{}", log());
        }
        let log = log();
        assert!(!log.contains("Task is being killed"), "the sink gave up:\n{log}");
        fs::read_to_string(self.folder.join("lines"))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Its log, for failure output.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("worker.log")).unwrap_or_default()
    }
}
