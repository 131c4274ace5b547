//! A real Apache Kafka: one node, KRaft, own ports, own folder.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, TopicPartitionList,
    admin::AdminClient,
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    producer::{DefaultProducerContext, Producer as _, ThreadedProducer},
};
use rustix::process::Signal;

use super::{
    acls, cache,
    certificates::{Authority, Identity},
    guard::{self, Folder, Guarded},
    java, ports, say,
};

/// The version that is started unless `WDT_TEST_KAFKA_VERSION` names another one.
const VERSION: &str = "4.2.2";
/// The logging bridge must fit the log4j-core this Kafka brings along.
const LOG4J: &str = "2.25.5";
/// How often a broker of ours looks for transactions that have timed out: Kafka's default of ten
/// seconds would add to every wait for one.
pub const ABORT_SCAN: Duration = Duration::from_secs(1);
const STARTS: u32 = 5;
const START_LIMIT: Duration = Duration::from_secs(60);

/// The broker shared by all tests of this run; started by the first who asks.
///
/// `WDT_TEST_KAFKA=host:port` makes it somebody else's, which is then neither started nor ended.
/// Otherwise `WDT_TEST_KAFKA_VERSION` chooses the version of this and every other broker.
pub fn broker() -> &'static Broker {
    static SHARED: OnceLock<Option<Broker>> = OnceLock::new();
    super::once(&SHARED, "the broker", || match external() {
        Some(bootstrap) => {
            say(&format!("testing against the Kafka at {bootstrap} (WDT_TEST_KAFKA)"));
            assert!(
                answers(&bootstrap),
                "the Kafka at {bootstrap} (WDT_TEST_KAFKA) does not answer within 10 s: start it, or unset the variable"
            );
            Broker { bootstrap, node: None }
        }
        None => {
            let node = Node::start(None, None);
            Broker { bootstrap: node.bootstrap(), node: Some(node) }
        }
    })
}

fn external() -> Option<String> {
    std::env::var("WDT_TEST_KAFKA").ok().filter(|value| !value.is_empty())
}

/// The version of our own brokers.
fn version() -> String {
    let chosen = std::env::var("WDT_TEST_KAFKA_VERSION").unwrap_or_default();
    if chosen.is_empty() { VERSION.to_owned() } else { chosen }
}

/// The jars, fetched if they are not there yet.
fn prepare() -> PathBuf {
    let version = version();
    cache::once(&format!("kafka-{version}"), |folder| {
        fs::write(folder.join("pom.xml"), pom(&version)).expect("the cache can be written");
        let arguments = [
            "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies".to_owned(),
            "-DoutputDirectory=libs".to_owned(),
            "-DincludeScope=runtime".to_owned(),
        ];
        java::maven(folder, &format!("Apache Kafka {version} (45 MB)"), &arguments);
    })
}

fn pom(version: &str) -> String {
    format!(
        r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>wdt-connector</groupId><artifactId>test-broker</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>{LOG4J}</version></dependency>
  </dependencies>
</project>
"#
    )
}

/// Whether a broker there answers a metadata request.
fn answers(bootstrap: &str) -> bool {
    let client: Result<BaseConsumer, _> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("log_level", "0").create();
    client.is_ok_and(|client| {
        client
            .fetch_metadata(None, Duration::from_secs(10))
            .is_ok_and(|known| !known.brokers().is_empty())
    })
}

/// The shared broker.
#[derive(Debug)]
pub struct Broker {
    bootstrap: String,
    node: Option<Node>,
}

impl Broker {
    /// `host:port`, for `bootstrap.servers`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The process id of our own broker; `None` when it is somebody else's.
    pub fn pid(&self) -> Option<u32> {
        self.node.as_ref().and_then(|node| node.process.as_ref()).map(Guarded::pid)
    }

    /// A client configuration with the address set.
    pub fn client(&self) -> ClientConfig {
        client(&self.bootstrap)
    }

    /// An admin client.
    pub fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("an admin client")
    }
}

fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    // librdkafka reports every refused connection of a broker that is down on purpose.
    config.set("bootstrap.servers", bootstrap).set("log_level", "0");
    config
}

/// A broker for one test that kills or restarts it.
#[derive(Debug)]
pub struct PrivateBroker {
    node: Node,
}

impl PrivateBroker {
    /// Starts one. `None`, after saying on stderr that `test` is not run, when `WDT_TEST_KAFKA` is
    /// set.
    pub fn start(test: &str) -> Option<Self> {
        if external().is_some() {
            say(&format!(
                "not run with WDT_TEST_KAFKA, because it kills or secures a broker: {test}"
            ));
            return None;
        }
        Some(Self { node: Node::start(None, None) })
    }

    /// The same with a second listener that tells its clients to come through the proxy at this
    /// port.
    pub fn behind(proxy: u16, test: &str) -> Option<Self> {
        if external().is_some() {
            say(&format!(
                "not run with WDT_TEST_KAFKA, because it puts a proxy in front of a broker: {test}"
            ));
            return None;
        }
        Some(Self { node: Node::start(Some(proxy), None) })
    }

    /// The port of the listener that [`Self::behind`] adds: the proxy's target.
    pub fn proxied_port(&self) -> u16 {
        self.node.ports.proxied
    }

    /// `host:port`; stays the same over restarts.
    pub fn bootstrap(&self) -> String {
        self.node.bootstrap()
    }

    /// A client configuration with the address set.
    pub fn client(&self) -> ClientConfig {
        client(&self.node.bootstrap())
    }

    /// `SIGKILL`; its data stay.
    pub fn kill(&mut self) {
        self.node.process = None;
    }

    /// `SIGTERM`, and waits until it has ended: what it finds at its next start it takes as it is.
    pub fn stop(&mut self) {
        self.process().signal(Signal::TERM);
        assert!(
            self.process().wait(START_LIMIT).is_some(),
            "the broker does not end after {START_LIMIT:?}; its log:\n{}",
            self.node.log_tail()
        );
        self.node.process = None;
    }

    /// Loses a partition's log, as a new disk does; the broker is stopped. Offsets that are
    /// committed for it stay.
    pub fn lose(&self, topic: &str, partition: i32) {
        let log = self.node.folder.join(&format!("data/{topic}-{partition}"));
        fs::remove_dir_all(&log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
    }

    /// Overwrites the records of a partition's largest batch but the first, as a disk does it; the
    /// partition has one segment, and the broker is stopped. Gives the batch's first offset.
    ///
    /// librdkafka goes on somewhere in a batch whose checksum is wrong as if another one began
    /// there, and what it takes for the header of an old message format can end the process
    /// (`docs/kafka.md#batches-that-cannot-be-read`). With this byte it finds the present format
    /// and a length that cannot be, and stops; in a small batch it would stand in the batch's own
    /// header.
    pub fn corrupt(&self, topic: &str, partition: i32) -> i64 {
        let name = format!("data/{topic}-{partition}/00000000000000000000.log");
        let file = self.node.folder.join(&name);
        let mut bytes = fs::read(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        let number = |at: usize, length: usize| {
            bytes[at..at + length].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        // Base offset (8 bytes), length of what follows (4), and at byte 21 the attributes, whose
        // bit 5 marks transaction markers.
        let (mut batches, mut at) = (Vec::new(), 0);
        while at + 12 < bytes.len() {
            let end = at + 12 + usize::try_from(number(at + 8, 4)).expect("a length");
            if number(at + 21, 2) & 0x20 == 0 {
                batches.push((i64::try_from(number(at, 8)).expect("an offset"), at, end));
            }
            at = end;
        }
        let largest = batches.iter().skip(1).max_by_key(|(_, start, end)| end - start);
        let (offset, start, end) = *largest.expect("two batches");
        assert!(end - start > 600, "the largest batch has {} bytes", end - start);
        // Behind the batch's header of 61 bytes.
        bytes[start + 61..end].fill(2);
        fs::write(&file, bytes).expect("a temporary file");
        offset
    }

    /// Starts it again on its data and the same ports, and waits until it answers.
    pub fn restart(&mut self) {
        self.kill();
        let ports = self.node.ports;
        assert!(
            self.node.launch(),
            "the broker on port {} did not start again; its log:\n{}",
            ports.broker,
            self.node.log_tail()
        );
    }

    /// The broker's process, to stop (`SIGSTOP`) and continue it.
    pub fn process(&mut self) -> &mut Guarded {
        self.node.process.as_mut().expect("the broker runs")
    }
}

/// Two brokers, the second of which can go away: the first is the controller as well, and holds
/// every topic of Kafka's own.
#[derive(Debug)]
pub struct TwoBrokers {
    second: Node,
    first: Node,
}

impl TwoBrokers {
    /// The second broker's id, for the placement of replicas; the first one's is 1.
    pub const SECOND: i32 = 2;

    /// Starts both. `None` as with [`PrivateBroker::start`].
    pub fn start(test: &str) -> Option<Self> {
        if external().is_some() {
            say(&format!("not run with WDT_TEST_KAFKA, because it starts two brokers: {test}"));
            return None;
        }
        let first = Node::launched(None, None, Cluster::First);
        // Kafka's own topics are made for the first who asks: now there is one broker for them.
        let client = client(&first.bootstrap());
        let producer: ThreadedProducer<DefaultProducerContext> =
            client.clone().set("transactional.id", "first").create().expect("a producer");
        producer.init_transactions(START_LIMIT).expect("the transactions' topic is made");
        let consumer: BaseConsumer =
            client.clone().set("group.id", "first").create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition("none", 0);
        let deadline = Instant::now() + START_LIMIT;
        // A coordinator that has just been made does not know it at once.
        while let Err(error) = consumer.committed_offsets(list.clone(), START_LIMIT) {
            assert!(Instant::now() < deadline, "the offsets' topic is not made: {error}");
            std::thread::sleep(Duration::from_millis(50));
        }
        let second = Node::joining(&first);
        Some(Self { second, first })
    }

    /// `host:port` of the first.
    pub fn bootstrap(&self) -> String {
        self.first.bootstrap()
    }

    /// A client configuration with the first one's address set.
    pub fn client(&self) -> ClientConfig {
        client(&self.first.bootstrap())
    }

    /// The second goes, by `SIGKILL`, and what only it holds has no leader.
    pub fn kill_second(&mut self) {
        self.second.process = None;
    }

    /// It comes back with its data.
    pub fn restart_second(&mut self) {
        assert!(self.second.launch(), "the second broker's log:\n{}", self.second.log_tail());
    }
}

/// A broker with a second door that is locked: TLS, a password by SCRAM, and rights by ACL for
/// everybody who comes through.
#[derive(Debug)]
pub struct LockedBroker {
    node: Node,
}

/// The password of every user of a locked broker.
pub const PASSWORD: &str = "kafka-pass-4711";

impl LockedBroker {
    /// Starts one that knows `users`, none of whom may do anything yet. `None` as with
    /// [`PrivateBroker::start`].
    pub fn start(test: &str, authority: &Authority, users: &[String]) -> Option<Self> {
        if external().is_some() {
            say(&format!(
                "not run with WDT_TEST_KAFKA, because it kills or secures a broker: {test}"
            ));
            return None;
        }
        let lock = Lock {
            good: authority.sign(false),
            expired: authority.sign(true),
            users: users.to_vec(),
        };
        Some(Self { node: Node::start(None, Some(&lock)) })
    }

    /// The locked door.
    pub fn bootstrap(&self) -> String {
        format!("localhost:{}", self.node.ports.secure)
    }

    /// A locked door with a certificate that has expired.
    pub fn expired_bootstrap(&self) -> String {
        format!("localhost:{}", self.node.ports.expired)
    }

    /// The unlocked door, for the test itself.
    pub fn admin(&self) -> ClientConfig {
        client(&self.node.bootstrap())
    }

    /// Grants rights.
    pub fn allow(&self, grants: &[acls::Grant]) {
        acls::create(&self.node.bootstrap(), grants);
    }
}

struct Lock {
    good: Identity,
    expired: Identity,
    users: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    broker: u16,
    controller: u16,
    proxied: u16,
    /// Used by a locked broker only.
    secure: u16,
    expired: u16,
}

#[derive(Debug)]
struct Node {
    // Dropped before the folder: no process writes into what is being removed.
    process: Option<Guarded>,
    ports: Ports,
    libs: PathBuf,
    folder: Folder,
    /// The port of a proxy in front of the listener `PROXIED`.
    proxy: Option<u16>,
    cluster: Cluster,
}

/// A node's part in its cluster.
#[derive(Clone, Copy, Debug)]
enum Cluster {
    Alone,
    First,
    /// The second, with the port of the first one's controller.
    Joining(u16),
}

impl Node {
    fn start(proxy: Option<u16>, lock: Option<&Lock>) -> Self {
        Self::launched(proxy, lock, Cluster::Alone)
    }

    /// The second broker of a cluster.
    fn joining(first: &Self) -> Self {
        Self::launched(None, None, Cluster::Joining(first.ports.controller))
    }

    fn launched(proxy: Option<u16>, lock: Option<&Lock>, cluster: Cluster) -> Self {
        let libs = prepare().join("libs");
        for _ in 0..STARTS {
            let [broker, controller, proxied, secure, expired] =
                std::array::from_fn(|_| ports::free_port());
            let ports = Ports { broker, controller, proxied, secure, expired };
            let mut node = Self {
                process: None,
                ports,
                libs: libs.clone(),
                folder: Folder::new("kafka"),
                proxy,
                cluster,
            };
            node.format(lock);
            if node.launch() {
                return node;
            }
            let log = node.log_tail();
            assert!(
                log.contains("Address already in use"),
                "the broker did not start; its log:\n{log}"
            );
        }
        panic!(
            "the broker found its ports taken {STARTS} times running: is something else using up the ports of this machine?"
        );
    }

    fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports.broker)
    }

    fn format(&self, lock: Option<&Lock>) {
        let properties = match lock {
            None => self.properties(),
            Some(lock) => self.properties() + &self.locking(lock),
        };
        fs::write(self.folder.join("server.properties"), properties).expect("a temporary file");
        let users = lock.map_or(&[][..], |lock| &lock.users);
        let scram = users.iter().flat_map(|user| {
            ["--add-scram".to_owned(), format!("SCRAM-SHA-512=[name={user},password={PASSWORD}]")]
        });
        fs::write(self.folder.join("log4j2.properties"), LOGGING).expect("a temporary file");
        let done = self
            .java(64)
            .args(["kafka.tools.StorageTool", "format", "-t", "d2R0LWNvbm5lY3Rvci10cw", "-c"])
            .arg(self.folder.join("server.properties"))
            .args(scram)
            .stdin(Stdio::null())
            .output()
            .expect("Java starts");
        assert!(
            done.status.success(),
            "the broker's folder could not be formatted:\n{}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }

    fn java(&self, megabytes: u32) -> Command {
        let mut command = java::java();
        command
            .current_dir(self.folder.path())
            .arg(format!("-Xmx{megabytes}m"))
            .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
            .arg(format!(
                "-Dlog4j2.configurationFile={}",
                self.folder.join("log4j2.properties").display()
            ))
            .arg("-cp")
            .arg(self.libs.join("*"));
        command
    }

    /// Starts the process and waits until it answers; false when it ended first.
    fn launch(&mut self) -> bool {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("a temporary file");
        let errors = log.try_clone().expect("a file descriptor");
        let mut command = self.java(512);
        command.arg("kafka.Kafka").arg(self.folder.join("server.properties"));
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let mut process = guard::spawn(&mut command).expect("Java starts");
        let deadline = Instant::now() + START_LIMIT;
        let address = SocketAddr::from(([127, 0, 0, 1], self.ports.broker));
        while process.exit().is_none() {
            // A cheap knock first: a client that meets a closed port waits longer before it tries
            // again.
            if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
                && answers(&self.bootstrap())
            {
                // Somebody else's broker on this port would answer as well; ours has then ended.
                let ours = process.exit().is_none();
                self.process = Some(process);
                return ours;
            }
            assert!(
                Instant::now() < deadline,
                "the broker does not answer after {START_LIMIT:?}; its log:\n{}",
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    fn log(&self) -> PathBuf {
        self.folder.join("broker.log")
    }

    fn log_tail(&self) -> String {
        tail(&self.log(), 60)
    }

    /// What a locked broker says besides; of two lines for one key the last counts.
    fn locking(&self, lock: &Lock) -> String {
        let Ports { broker, controller, secure, expired, .. } = self.ports;
        let good = lock.good.write(self.folder.path(), "good.pem");
        let old = lock.expired.write(self.folder.path(), "expired.pem");
        let mut text = format!(
            "listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller},SECURE://127.0.0.1:{secure},EXPIRED://127.0.0.1:{expired}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker},SECURE://localhost:{secure},EXPIRED://localhost:{expired}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL,EXPIRED:SASL_SSL
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-512
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"
        );
        for (door, file) in [("secure", good), ("expired", old)] {
            text += &format!(
                "listener.name.{door}.ssl.keystore.type=PEM
listener.name.{door}.ssl.keystore.location={}
listener.name.{door}.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
",
                file.display()
            );
        }
        text
    }

    /// Without retention: some tests send records of long ago, which the broker would remove at its
    /// next look, 30 s after its start and every 5 min.
    fn properties(&self) -> String {
        let Ports { broker, controller, proxied, .. } = self.ports;
        let (listener, advertised, protocol) = match self.proxy {
            Some(proxy) => (
                format!(",PROXIED://127.0.0.1:{proxied}"),
                format!(",PROXIED://127.0.0.1:{proxy}"),
                ",PROXIED:PLAINTEXT\ninter.broker.listener.name=PLAINTEXT",
            ),
            None => (String::new(), String::new(), ""),
        };
        let data = self.folder.join("data");
        let controlling = "process.roles=broker,controller\nnode.id=1";
        let door = format!(",CONTROLLER://127.0.0.1:{controller}");
        let (node, controller, own) = match self.cluster {
            Cluster::Alone => (controlling.to_owned(), controller, door),
            // A broker that was killed is noticed after the session's time-out.
            Cluster::First => {
                (format!("{controlling}\nbroker.session.timeout.ms=3000"), controller, door)
            }
            Cluster::Joining(controller) => (
                "process.roles=broker\nnode.id=2\nbroker.heartbeat.interval.ms=500".to_owned(),
                controller,
                String::new(),
            ),
        };
        format!(
            "{node}
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker}{own}{listener}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}{advertised}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocol}
log.dirs={}
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
transaction.abort.timed.out.transaction.cleanup.interval.ms={}
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
log.retention.ms=-1
num.network.threads=2
num.io.threads=4
log.cleaner.backoff.ms=1000
log.cleaner.dedupe.buffer.size=8388608
",
            data.display(),
            ABORT_SCAN.as_millis()
        )
    }
}

/// The last lines of a file, for failure output.
fn tail(file: &Path, lines: usize) -> String {
    let text = fs::read(file)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

const LOGGING: &str = "status=error
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %-5p %m (%c{1})%n%throwable{5}
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
";
