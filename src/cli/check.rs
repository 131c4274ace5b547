//! `check`: everything that can be wrong before the first record, looked at from outside.

use std::time::Duration;

use tokio::{net::TcpStream, time::timeout};

use crate::{
    clock::Timestamp,
    config::{
        CLOCK_ERROR, CommandFormat, Edition, Feed, Loaded, RegistrySettings, Settings,
        duration_text,
    },
    erp::{Call, Class, Erp, PageRequest, QueryFault, Selection},
    kafka::{
        admin::{Admin, Cluster},
        probe::{self, Found},
        rights::{Operation, Resource},
    },
    schema::{Codec, Subject},
    source::{
        change::call_of,
        query,
        window::{Foreign, Window},
    },
};

use super::{
    End, acls,
    beside::{self, Pace},
    estimate::{self, call_word},
    report::{Finding, Report},
    state,
    topics::{self, Absence},
    usage,
};

/// A signed read call, permit included: an empty bucket takes a little over a second.
const ERP_PATIENCE: Duration = Duration::from_secs(30);
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
const REGISTRY_PATIENCE: Duration = Duration::from_secs(10);
/// A state without a checkpoint among its last records is read whole.
const STATE_PATIENCE: Duration = Duration::from_secs(30);
/// The `Date` header has whole seconds, and the answer took some time.
const DATE_GRAIN_MS: i64 = 2000;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// One JSON document instead of the table
    #[arg(long)]
    json: bool,
    /// Print the rights the connector needs on Kafka, as a table and as kafka-acls commands;
    /// connects to nothing
    #[arg(long)]
    acls: bool,
}

pub(super) async fn execute(args: Args, loaded: Loaded) -> anyhow::Result<End> {
    let Loaded { settings, warnings } = loaded;
    if args.acls {
        return Ok(acls::print(&settings));
    }
    let mut report = if args.json { Report::json() } else { Report::new() };
    report.add(&configuration(&settings));
    for warning in warnings {
        report.add(&Finding::warning("configuration", warning, "change it before production"));
    }
    kafka(&settings, &mut report).await;
    registry(&settings, &mut report).await;
    erp(&settings, &mut report).await;
    report.add_all(&states(&settings).await);
    report.add_all(&estimate::findings(&settings));
    report.add_all(&usage::findings(&settings).await);
    Ok(report.end())
}

fn configuration(settings: &Settings) -> Finding {
    match settings.require_pipeline() {
        Ok(()) => {
            let mut pipelines: Vec<&str> = Feed::ALL
                .iter()
                .filter(|feed| settings.feed(**feed).enabled)
                .map(|feed| feed.name())
                .collect();
            if settings.commands.enabled {
                pipelines.insert(0, "commands");
            }
            Finding::good("configuration", format!("enabled: {}", pipelines.join(", ")))
        }
        Err(mistake) => Finding::warning(
            "configuration",
            "no pipeline is enabled, so run has nothing to do",
            mistake.sentence,
        ),
    }
}

async fn kafka(settings: &Settings, report: &mut Report) {
    let looked = async {
        let admin = Admin::connect(&settings.kafka)?;
        let cluster = admin.cluster(topics::PATIENCE).await?;
        anyhow::Ok((admin, cluster))
    };
    let (admin, cluster) = match looked.await {
        Ok(found) => found,
        Err(error) => {
            let advice = "check kafka.bootstrap_servers, the network, and security.protocol, sasl.mechanisms, sasl.username in kafka.properties";
            report.add(&Finding::bad("kafka", error.to_string(), advice));
            return;
        }
    };
    report.add(&topics::judge_cluster(settings, &cluster));
    match topics::verify(settings, &admin, &cluster, Absence::Fails).await {
        Ok(findings) => report.add_all(&findings),
        Err(error) => report.add(&Finding::bad(
            "topics",
            error.to_string(),
            "give the account Describe and DescribeConfigs on the topics",
        )),
    }
    rights(settings, &admin, &cluster, report).await;
}

/// Tries every right that `run` needs, all at once; a granted one leaves nothing behind.
async fn rights(settings: &Settings, admin: &Admin, cluster: &Cluster, report: &mut Report) {
    let needed = acls::needed(settings);
    let topics: Vec<&str> = cluster
        .topics
        .keys()
        .map(String::as_str)
        .filter(|name| acls::concerns(&needed, name))
        .collect();
    let options = admin.options(&topics).await.unwrap_or_default();
    let tries: Vec<_> = needed
        .into_iter()
        // Its absence was said where the options were to be verified.
        .filter(|right| right.operation != Operation::DescribeConfigs)
        .map(|right| {
            let topic = match &right.resource {
                Resource::Topic(name) => name.clone(),
                Resource::Group(_) | Resource::TransactionalIds(_) => {
                    acls::topic_of(settings, &right.resource)
                }
            };
            let largest = options
                .get(&topic)
                .and_then(|options| options.get("max.message.bytes"))
                .and_then(|text| text.parse().ok());
            let kafka = settings.kafka.clone();
            tokio::task::spawn_blocking(move || {
                let found = probe::right(&kafka, right.operation, &right.resource, &topic, largest);
                (right, found)
            })
        })
        .collect();
    let mut granted = 0;
    let mut all = true;
    for tried in tries {
        let Ok((right, found)) = tried.await else { continue };
        match found {
            Found::Granted => granted += 1,
            Found::Denied(sentence) => {
                all = false;
                report.add(&Finding::bad(
                    "rights",
                    sentence,
                    acls::command(&settings.kafka, &right),
                ));
            }
            // A topic that does not exist was named already.
            Found::Unknown(_) if matches!(&right.resource, Resource::Topic(name) if !cluster.topics.contains_key(name)) => {
                all = false
            }
            Found::Unknown(reason) => {
                all = false;
                report.add(&Finding::warning(
                    "rights",
                    reason,
                    "compare with the list of wdt-connector check --acls",
                ));
            }
        }
    }
    if all {
        report.add(&Finding::good(
            "rights",
            format!(
                "all {granted} that run needs on topics, groups and transactional ids are granted"
            ),
        ));
    }
}

async fn registry(settings: &Settings, report: &mut Report) {
    let Some(registry) = &settings.schema_registry else {
        report.add(&Finding::good(
            "schema registry",
            "none; values carry Avro single-object encoding",
        ));
        return;
    };
    report.add(&registry_finding(settings, registry).await);
}

async fn registry_finding(settings: &Settings, registry: &RegistrySettings) -> Finding {
    let name = "schema registry";
    if let Err(reason) = reach(&registry.url).await {
        return Finding::bad(
            name,
            format!("{} cannot be reached: {reason}", registry.url),
            "check schema_registry.url and the network",
        );
    }
    // Looking only: registering is left to `run`.
    let looking = RegistrySettings { register: false, ..registry.clone() };
    match timeout(
        REGISTRY_PATIENCE,
        Codec::connect(Some(&looking), &settings.topics, &subjects(settings)),
    )
    .await
    {
        Ok(Ok(_)) => {
            Finding::good(name, format!("every schema in use is registered at {}", registry.url))
        }
        Ok(Err(fault)) if registry.register => Finding::warning(
            name,
            format!("{} answers, but: {fault}", registry.url),
            "run registers what is missing; a refusal or a wrong password stays one",
        ),
        Ok(Err(fault)) => Finding::bad(
            name,
            fault.to_string(),
            "register the schemas, or set schema_registry.register = true",
        ),
        Err(_) => Finding::bad(
            name,
            format!("{} gives no answer within {}", registry.url, duration_text(REGISTRY_PATIENCE)),
            "look at the registry",
        ),
    }
}

/// What the enabled pipelines write and read.
pub(super) fn subjects(settings: &Settings) -> Vec<Subject> {
    let mut subjects = Vec::new();
    if settings.commands.enabled {
        subjects.extend([Subject::Result, Subject::Journal]);
        match settings.commands.format {
            CommandFormat::Avro => subjects.push(Subject::Command),
            CommandFormat::Json => {}
        }
    }
    for feed in Feed::ALL.into_iter().filter(|feed| settings.feed(*feed).enabled) {
        subjects.push(match feed {
            Feed::PurchaseReturns => Subject::PurchaseReturnEnvelope,
            Feed::ReturnOutbounds => Subject::ReturnOutboundEnvelope,
        });
    }
    if Feed::ALL.iter().any(|feed| settings.feed(*feed).enabled) {
        subjects.push(Subject::FeedState);
    }
    subjects
}

/// Whether anything listens at an address; the configuration has checked its form.
async fn reach(url: &str) -> Result<(), String> {
    let uri: axum::http::Uri = url.parse().map_err(|error| format!("{error}"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    match timeout(REGISTRY_PATIENCE, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

async fn erp(settings: &Settings, report: &mut Report) {
    let calls = calls(settings);
    if calls.is_empty() {
        report.add(&Finding::warning(
            "erp",
            "no account is configured",
            "fill in [erp.flagship] or [erp.enterprise]",
        ));
        return;
    }
    let erp = match beside::erp(settings, Pace::Question) {
        Ok(erp) => erp,
        Err(fault) => {
            report.add(&Finding::bad(
                "erp",
                fault.to_string(),
                "correct the account's url, ca_file or proxy",
            ));
            return;
        }
    };
    for call in calls {
        let finding = match timeout(ERP_PATIENCE, ask(&erp, call)).await {
            Ok(finding) => finding,
            Err(_) => Finding::bad(
                subject(call),
                format!("no answer within {}", duration_text(ERP_PATIENCE)),
                "look at the ERP and the network",
            ),
        };
        report.add(&finding);
    }
    report.add_all(&untested(settings));
    let filter = settings.return_outbounds.filters.warehouse_no.as_deref();
    let outbounds = &settings.return_outbounds;
    if let Some(warehouse_no) = filter.filter(|_| outbounds.enabled) {
        let counted = timeout(ERP_PATIENCE, orders_of(&erp, settings, warehouse_no)).await;
        let found = counted.ok().flatten().and_then(|count| unseen(warehouse_no, count));
        report.add_all(found.as_slice());
    }
}

/// What a check without effects cannot tell of the ERP.
fn untested(settings: &Settings) -> Vec<Finding> {
    let mut rows = Vec::new();
    if settings.commands.enabled {
        rows.push(Finding::not_tested(
            "erp create_order",
            "not called, because check makes no order: the permission for wms.stockout.PurchaseReturn.createOrder, and that the ERP's client is V1.4.0.4 or later, V1.5.5.2 for the lookups",
            "grant the appkey that call, and send one command for a return that you can cancel",
        ));
    }
    let flagship = settings.flagship.as_ref().map(|account| &account.connection);
    let enterprise = settings.enterprise.as_ref().map(|account| &account.connection);
    for (section, connection) in [("flagship", flagship), ("enterprise", enterprise)] {
        if connection.is_some_and(|connection| connection.proxy.is_some()) {
            rows.push(Finding::not_tested(
                format!("erp.{section}.proxy"),
                "whether the proxy keeps one connection to the ERP for several sellers: the ERP takes each connection for one seller's",
                "give the connector a proxy of its own, or have it close its connections to the ERP",
            ));
        }
    }
    rows
}

/// How many outbound orders of the last 30 days the feed's query counts in a warehouse; `None` where
/// the ERP does not say.
async fn orders_of(erp: &Erp, settings: &Settings, warehouse_no: &str) -> Option<u64> {
    let feed = Feed::ReturnOutbounds;
    let section = settings.feed(feed);
    let end = Timestamp::now().minus(Duration::from_secs(60)).floor_second();
    // The longest window the ERP accepts.
    let window = Window { start: end.minus(Duration::from_secs(30 * 86_400 - 1)), end };
    let call = call_of(feed, section.edition);
    let mut sum = 0;
    for selection in query::of_window(feed, section, window) {
        debug_assert_eq!(selection.warehouse_no.as_deref(), Some(warehouse_no));
        let permit = erp.quota().acquire(call, Class::Feed).await;
        let page = PageRequest { page_no: 0, page_size: 1, count: true };
        sum += erp.query(permit, &selection, page, CALL_TIMEOUT).await.ok()?.total_count?;
    }
    Some(sum)
}

/// A warehouse of which nothing is shown may be one that the query does not take, or one that the
/// account may not see: the ERP says neither.
fn unseen(warehouse_no: &str, orders: u64) -> Option<Finding> {
    (orders == 0).then(|| {
        Finding::warning(
            "erp warehouse",
            format!("the ERP shows no outbound order of the last 30 days in warehouse {warehouse_no} (feeds.return_outbounds.filters)"),
            "check its number and the appkey's permission for it (仓库权限); the query takes ordinary warehouses only (限普通仓库)",
        )
    })
}

/// What `run` would refuse of the feeds' states; nothing where they cannot be read, which other
/// rows say.
async fn states(settings: &Settings) -> Vec<Finding> {
    let Ok(Ok(codec)) = timeout(REGISTRY_PATIENCE, state::codec(settings)).await else {
        return Vec::new();
    };
    let mut rows = Vec::new();
    for feed in Feed::ALL.into_iter().filter(|feed| settings.feed(*feed).enabled) {
        let read = timeout(STATE_PATIENCE, state::checkpoint(settings, &codec, feed)).await;
        if let Ok(Ok(Some(at))) = read
            && let Err(foreign) = state::of_account(settings, feed, &at)
        {
            let what = format!("{}: {}", feed.name(), foreign.what());
            rows.push(Finding::bad("feed state", what, Foreign::ADVICE));
        }
    }
    rows
}

fn subject(call: Call) -> String {
    format!("erp {}", call_word(call))
}

/// The read calls of the enabled pipelines; without any, one per account.
fn calls(settings: &Settings) -> Vec<Call> {
    let outbounds = &settings.return_outbounds;
    let mut calls = Vec::new();
    if settings.purchase_returns.enabled {
        calls.push(Call::QueryPurchaseReturns);
    }
    if settings.commands.enabled || (outbounds.enabled && outbounds.edition == Edition::Flagship) {
        calls.push(Call::QueryOutbounds);
    }
    if outbounds.enabled && outbounds.edition == Edition::Enterprise {
        calls.push(Call::QueryOutboundsEnterprise);
    }
    if settings.flagship.is_some()
        && !calls.iter().any(|call| *call != Call::QueryOutboundsEnterprise)
    {
        calls.push(Call::QueryPurchaseReturns);
    }
    if settings.enterprise.is_some() && !calls.contains(&Call::QueryOutboundsEnterprise) {
        calls.push(Call::QueryOutboundsEnterprise);
    }
    calls
}

/// One page of one second: the cheapest signed call there is.
async fn ask(erp: &Erp, call: Call) -> Finding {
    let to = Timestamp::now().minus(Duration::from_secs(60)).floor_second();
    let (time_type, status) = match call {
        Call::QueryOutbounds => (Some(3), None),
        Call::QueryOutboundsEnterprise => (None, Some("110".to_owned())),
        Call::CreateOrder | Call::QueryPurchaseReturns => (None, None),
    };
    let from = to.minus(Duration::from_secs(1));
    let selection = Selection {
        window: Some((from, to)),
        time_type,
        return_no: None,
        status,
        warehouse_no: None,
        provider_no: None,
    };
    let permit = erp.quota().acquire(call, Class::Feed).await;
    let page = PageRequest { page_no: 0, page_size: 1, count: true };
    match erp.query(permit, &selection, page, CALL_TIMEOUT).await {
        Ok(page) => clock_finding(call, page.erp_date.map(|date| date.0 - page.asked_at_wall.0)),
        Err(fault) => fault_finding(call, &fault),
    }
}

/// `ahead_ms`: the ERP's clock less ours; `None` without a `Date`.
fn clock_finding(call: Call, ahead_ms: Option<i64>) -> Finding {
    let Some(ahead) = ahead_ms else {
        return Finding::warning(
            subject(call),
            "account and permission are good; the answer has no Date, so the clock was not compared",
            "synchronise this machine's clock by NTP",
        );
    };
    let error = i64::try_from(CLOCK_ERROR.as_millis()).unwrap_or(i64::MAX);
    if ahead.saturating_abs() > error.saturating_add(DATE_GRAIN_MS) {
        let seconds = ahead.unsigned_abs() / 1000;
        let direction = if ahead > 0 { "behind" } else { "ahead of" };
        return Finding::warning(
            subject(call),
            format!(
                "account and permission are good, but this machine's clock is {seconds} s {direction} the ERP's"
            ),
            "synchronise it by NTP; feeds widen safety_lag by it, and from 120 s on the ERP refuses every call",
        );
    }
    Finding::good(subject(call), "account, permission and clock are good")
}

fn fault_finding(call: Call, fault: &QueryFault) -> Finding {
    let says = fault.to_string();
    match fault {
        QueryFault::Throttled { .. } => Finding::warning(
            subject(call),
            says,
            "another program uses this appkey, or too many checks in a row; lower quota.calls_per_minute",
        ),
        QueryFault::Unreachable { .. } => Finding::bad(
            subject(call),
            says,
            "check the account's url, proxy and ca_file, and the network",
        ),
        QueryFault::Unusable { .. } | QueryFault::Unlisted { .. } | QueryFault::TooLong { .. } => {
            Finding::bad(
                subject(call),
                says,
                "check the account's url; the ERP may be out of order: try again later",
            )
        }
        QueryFault::Misconfigured { .. } => Finding::bad(
            subject(call),
            says,
            "check sid, appkey, secret, the appkey's permissions, its IP list and this machine's clock",
        ),
        QueryFault::TooWide { .. } | QueryFault::Rejected { .. } => {
            Finding::bad(subject(call), says, "this is a defect of the connector: report it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::report::Level, erp::Refusal, explanation::Explanation};

    #[test]
    fn a_clock_that_is_off_is_a_warning_with_a_direction() {
        let call = Call::QueryOutbounds;
        assert_eq!(clock_finding(call, Some(0)).level, Level::Good);
        assert_eq!(clock_finding(call, Some(-6900)).level, Level::Good);
        let ahead = clock_finding(call, Some(-30_000));
        assert!(ahead.level == Level::Warning && ahead.says.contains("30 s ahead of"), "{ahead:?}");
        assert!(clock_finding(call, Some(i64::MIN)).says.contains("ahead of"));
        assert!(clock_finding(call, Some(8000)).says.contains("8 s behind"));
        assert_eq!(clock_finding(call, None).level, Level::Warning);
    }

    #[test]
    fn only_a_throttled_call_does_not_fail() {
        let call = Call::QueryOutbounds;
        let refusal = Refusal {
            code: 1,
            message: "验证失败".to_owned(),
            explanation: Some(Explanation::new("wrong signature", "签名错误")),
            unapproved: false,
        };
        let finding = fault_finding(call, &QueryFault::Misconfigured { call, refusal });
        assert!(
            finding.level == Level::Bad
                && finding.says.contains("验证失败")
                && finding.says.contains("wrong signature"),
            "{finding:?}"
        );
        assert_eq!(
            fault_finding(call, &QueryFault::Throttled { call, message: "x".to_owned() }).level,
            Level::Warning
        );
    }

    #[test]
    fn what_a_check_cannot_tell_is_said_and_is_not_good() {
        let settings = |text: &str| {
            let env = [("WDT__ERP__FLAGSHIP__SECRET", "x:y")];
            let env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
            let account = "[erp.flagship]\nurl = \"http://e/\"\nsid = \"s\"\nkey = \"k\"\n";
            crate::config::from_toml(&format!("{account}{text}"), env).unwrap().settings
        };
        assert_eq!(untested(&settings("")), []);
        let rows = untested(&settings("proxy = \"http://p:1\"\n[commands]\nenabled = true\n"));
        let subjects: Vec<&str> = rows.iter().map(|row| row.subject.as_str()).collect();
        assert_eq!(subjects, ["erp create_order", "erp.flagship.proxy"]);
        assert!(rows.iter().all(|row| row.level == Level::NotTested), "{rows:?}");
        assert_eq!((unseen("W", 1), unseen("W", 0).unwrap().level), (None, Level::Warning));
    }

    #[test]
    fn every_account_in_use_is_asked() {
        let env = [("WDT__ERP__ENTERPRISE__APPSECRET", "x"), ("WDT__ERP__FLAGSHIP__SECRET", "x:y")];
        let settings = |text: &str| {
            let accounts = "[erp.flagship]\nurl = \"http://e/\"\nsid = \"s\"\nkey = \"k\"\n[erp.enterprise]\nurl = \"http://e/\"\nsid = \"s\"\nappkey = \"k\"\n";
            let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            crate::config::from_toml(&format!("{accounts}{text}"), env).unwrap().settings
        };
        assert_eq!(
            calls(&settings("")),
            [Call::QueryPurchaseReturns, Call::QueryOutboundsEnterprise]
        );
        assert_eq!(
            calls(&settings("[commands]\nenabled = true\n")),
            [Call::QueryOutbounds, Call::QueryOutboundsEnterprise]
        );
        let none = crate::config::from_toml("", std::iter::empty()).unwrap().settings;
        assert!(calls(&none).is_empty());
    }
}
