//! The ERP of one test: a `wdt-connector simulate` process of its own, spoken to through its admin
//! API.
//!
//! A process costs a test some milliseconds and keeps apart what is measured: the connector's CPU
//! and memory from the simulator's, and the ledger, read over HTTP, from the code under test.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use wdt_connector::testing::clock::Timestamp;

use super::{commands::WAREHOUSE, connector::PROGRAM, http};
use crate::parts::guard::{self, Guarded};

/// What the ERP holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Returns,
    FlagshipOutbounds,
    EnterpriseOutbounds,
}

impl Kind {
    /// The table's name in the admin API.
    fn table(self) -> &'static str {
        match self {
            Self::Returns => "purchase_returns",
            Self::FlagshipOutbounds | Self::EnterpriseOutbounds => "outbounds",
        }
    }

    /// The name of its query in counters.
    fn query(self) -> &'static str {
        match self {
            Self::Returns => "purchase_returns",
            Self::FlagshipOutbounds => "outbounds",
            Self::EnterpriseOutbounds => "enterprise_outbounds",
        }
    }

    fn edition(self) -> &'static str {
        match self {
            Self::Returns | Self::FlagshipOutbounds => "flagship",
            Self::EnterpriseOutbounds => "enterprise",
        }
    }
}

/// An outbound order that a call made, as the ledger tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub order_no: String,
    pub return_no: String,
    pub remark: String,
    /// `#` and 13 characters, when the remark as sent began so.
    pub marker: Option<String>,
}

/// Calls of `createOrder` by how they ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calls {
    pub received: u64,
    /// An order was made.
    pub applied: u64,
    pub answered: u64,
    /// An order was made and no usable answer left: what the client cannot know.
    pub applied_unanswered: u64,
}

/// A running simulator; ended when dropped.
#[derive(Debug)]
pub struct Erp {
    /// The line it prints when it has started: addresses and (made-up) credentials.
    line: Value,
    process: Guarded,
}

impl Erp {
    /// Starts one on ports of its own: no quota, empty, answering at once.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further arguments of `simulate`.
    pub fn start_with(arguments: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["simulate", "--returns", "0", "--outbounds", "0", "--quota", "0"]);
        command.args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = guard::spawn(&mut command).expect("the program starts");
        let stdout = process.child().stdout.take().expect("stdout is piped");
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said).expect("the simulator's stdout");
        let line = serde_json::from_str(&said).unwrap_or_else(|fault| {
            panic!("`simulate` did not say where it listens ({fault}): {said}")
        });
        Self { line, process }
    }

    fn said(&self, section: &str, key: &str) -> &str {
        self.line[section][key]
            .as_str()
            .unwrap_or_else(|| panic!("no {section}.{key} in {}", self.line))
    }

    /// The process id, to look at its CPU.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// For `[erp.flagship] url`.
    pub fn flagship_url(&self) -> &str {
        self.said("flagship", "url")
    }

    /// For `[erp.enterprise] url`.
    pub fn enterprise_url(&self) -> &str {
        self.said("enterprise", "url")
    }

    /// `host:port`, to put a proxy in front.
    pub fn address(&self) -> &str {
        self.flagship_url().trim_start_matches("http://").split('/').next().unwrap_or_default()
    }

    pub fn flagship_sid(&self) -> &str {
        self.said("flagship", "sid")
    }

    pub fn flagship_key(&self) -> &str {
        self.said("flagship", "key")
    }

    /// `secret:salt`.
    pub fn flagship_secret(&self) -> &str {
        self.said("flagship", "secret")
    }

    pub fn enterprise_sid(&self) -> &str {
        self.said("enterprise", "sid")
    }

    pub fn enterprise_key(&self) -> &str {
        self.said("enterprise", "appkey")
    }

    pub fn enterprise_secret(&self) -> &str {
        self.said("enterprise", "appsecret")
    }

    fn admin(&self, path: &str) -> String {
        let base = self.line["admin"]
            .as_str()
            .unwrap_or_else(|| panic!("no admin address in {}", self.line));
        format!("{base}/{path}")
    }

    fn ask(&self, path: &str) -> Value {
        let answer = http::get(&self.admin(path))
            .unwrap_or_else(|fault| panic!("the simulator does not answer {path}: {fault}"));
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    fn tell(&self, path: &str, body: &Value) -> Value {
        self.tell_text(path, &body.to_string())
    }

    fn tell_text(&self, path: &str, body: &str) -> Value {
        let answer = http::post_text(&self.admin(path), body)
            .unwrap_or_else(|fault| panic!("the simulator does not answer {path}: {fault}"));
        assert!(
            (200..300).contains(&answer.status),
            "{path} {body}: {} {}",
            answer.status,
            answer.body
        );
        if answer.body.trim().is_empty() { Value::Null } else { answer.json() }
    }

    /// Makes approved returns with these numbers in the tests' warehouse, so that orders can be
    /// made out of them.
    pub fn approve(&self, return_nos: impl IntoIterator<Item = String>) {
        let numbers: std::collections::BTreeSet<String> = return_nos.into_iter().collect();
        for number in numbers {
            self.tell(
                "seed/purchase_returns",
                &json!({"count": 1, "return_no": number, "status": 40, "warehouse_no": WAREHOUSE}),
            );
        }
    }

    /// Makes up `count` records modified within the last seven days, at least a minute ago; returns
    /// their numbers.
    pub fn seed(&self, kind: Kind, count: usize) -> Vec<String> {
        let minute_ago = wdt_connector::testing::clock::Timestamp::now()
            .minus(Duration::from_secs(60))
            .to_beijing();
        self.made(kind, &json!({"count": count, "edition": kind.edition(), "to": minute_ago}))
    }

    /// Makes up one record modified now; returns its number.
    pub fn add_one(&self, kind: Kind) -> String {
        self.made(kind, &json!({"count": 1, "edition": kind.edition()})).remove(0)
    }

    /// Makes up records as the simulator's `Seeding` says; returns their numbers.
    pub fn made(&self, kind: Kind, seeding: &Value) -> Vec<String> {
        let answer = self.tell(&format!("seed/{}", kind.table()), seeding);
        let numbers =
            answer["numbers"].as_array().unwrap_or_else(|| panic!("no numbers in {answer}"));
        numbers
            .iter()
            .map(|number| number.as_str().expect("a number is a text").to_owned())
            .collect()
    }

    /// Changes one record now; the simulator's `Change`: `remark`, `status`, `set` (fields as
    /// JSON), `omit`, `restore`…
    pub fn modify(&self, kind: Kind, number: &str, change: &Value) {
        self.tell(&format!("records/{}/{number}", kind.table()), change);
    }

    /// As [`Self::modify`], the change written as JSON text, digit for digit.
    pub fn modify_text(&self, kind: Kind, number: &str, change: &str) {
        self.tell_text(&format!("records/{}/{number}", kind.table()), change);
    }

    /// Modifies this many records at random.
    pub fn churn(&self, count: usize) {
        self.tell("churn", &json!({"count": count}));
    }

    /// One record as the ERP's query would answer it.
    pub fn record(&self, kind: Kind, number: &str) -> Value {
        self.ask(&format!("records/{}/{number}?edition={}", kind.table(), kind.edition()))
    }

    /// Records as the ERP's query would answer them, by id, from `skip` on.
    pub fn page(&self, kind: Kind, skip: usize, limit: usize) -> Vec<Value> {
        let answer = self.ask(&format!(
            "records/{}?edition={}&skip={skip}&limit={limit}",
            kind.table(),
            kind.edition()
        ));
        answer.as_array().unwrap_or_else(|| panic!("no list of records: {answer}")).clone()
    }

    /// Makes up `count` records modified between two instants, both included; returns their
    /// numbers.
    pub fn seed_between(
        &self,
        kind: Kind,
        count: usize,
        from: Timestamp,
        to: Timestamp,
    ) -> Vec<String> {
        self.made(kind, &json!({"count": count, "edition": kind.edition(), "from": from.to_beijing(), "to": to.to_beijing()}))
    }

    /// Every order a call has made.
    pub fn orders(&self) -> Vec<Order> {
        let text = |order: &Value, field: &str| {
            order[field].as_str().unwrap_or_else(|| panic!("no {field} in {order}")).to_owned()
        };
        let answer = self.ask("orders");
        let orders = answer.as_array().unwrap_or_else(|| panic!("no list of orders: {answer}"));
        let order = |order: &Value| Order {
            order_no: text(order, "order_no"),
            return_no: text(order, "return_no"),
            remark: text(order, "remark"),
            marker: order["marker"].as_str().map(str::to_owned),
        };
        orders.iter().map(order).collect()
    }

    /// The ledger's summary.
    pub fn summary(&self) -> Value {
        self.ask("summary")
    }

    /// How many orders calls have made: cheaper than [`Self::orders`].
    pub fn order_count(&self) -> u64 {
        self.summary()["orders"].as_u64().expect("a count")
    }

    /// How often the flagship's outbound orders were asked for.
    pub fn queries(&self) -> u64 {
        self.ask("counters")["outbounds"]["received"].as_u64().unwrap_or(0)
    }

    /// How often this kind was asked for.
    pub fn asked(&self, kind: Kind) -> u64 {
        self.ask("counters")[kind.query()]["received"].as_u64().expect("a count")
    }

    /// How often each fault has struck, by its name.
    pub fn struck(&self) -> BTreeMap<String, u64> {
        serde_json::from_value(self.summary()["faults"].clone()).expect("a count for each fault")
    }

    /// The calls of `createOrder`.
    pub fn creates(&self) -> Calls {
        let counts = self.ask("counters")["create_order"].clone();
        let count =
            |name: &str| counts[name].as_u64().unwrap_or_else(|| panic!("no {name} in {counts}"));
        Calls {
            received: count("received"),
            applied: count("applied"),
            answered: count("answered"),
            applied_unanswered: count("applied_unanswered"),
        }
    }

    /// How many queries of outbound orders have arrived: lookups and probes, where no feed runs.
    pub fn outbound_queries(&self) -> u64 {
        self.ask("counters")["outbounds"]["received"].as_u64().expect("a count")
    }

    /// Adds rules of the simulator's script: `createOrder:applied_timeout=1x`, `all:slow(100ms)=1`…
    pub fn faults(&self, rules: &str) {
        self.tell("faults", &json!({"rules": rules}));
    }

    /// Replaces all rules.
    pub fn only_faults(&self, rules: &str) {
        self.tell("faults", &json!({"rules": rules, "replace": true}));
    }

    /// Changes settings of the running simulator: `outage`, `visibility_ms`, `auto_returns`,
    /// `page_order`…
    pub fn adjust(&self, settings: &Value) {
        self.tell("settings", settings);
    }

    /// Takes any return, warehouse and SKU from now on, known or not.
    pub fn take_anything(&self) {
        self.adjust(&json!({"auto_returns": true}));
    }

    /// Answers every `createOrder` this much later than it has made the order.
    pub fn latency(&self, span: Duration) {
        self.faults(&format!("createOrder:slow({}ms)=1", span.as_millis()));
    }

    /// Whether there is still a rule that contains `part`, counted rules being spent one by one.
    pub fn armed(&self, part: &str) -> bool {
        self.ask("faults").to_string().contains(part)
    }
}
