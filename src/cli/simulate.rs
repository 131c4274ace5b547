//! `simulate`: the ERP simulator alone.

use std::{net::SocketAddr, time::Duration};

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::output;
use crate::simulator::{
    Edition, EnterpriseWindow, Kind, PageOrder, Rule, Seeding, Simulator, SimulatorConfig, Sources,
    parse_rules, parse_span,
};

const EXAMPLE: &str = "\
Example:
  wdt-connector simulate --listen 127.0.0.1:8090 --admin-listen 127.0.0.1:8091 --returns 1000 --outbounds 1000 \\
      --latency 50ms --auto-returns --faults 'createOrder:applied_timeout=0.02,query:5xx=0.01'

It prints one JSON line with the addresses and the (made-up) credentials, and runs until SIGINT or SIGTERM.
What the ERP then holds: curl http://127.0.0.1:8091/admin/summary (also orders, duplicates, counters, requests,
records/purchase_returns, records/outbounds, faults).

Fault rules are target:fault=chance, divided by commas.
  targets  createOrder, purchaseReturns, outbounds, enterprise, query, all
  chance   a probability (0.02), or a count (3x: the next three)
           (a text may hold commas; count and probability stand behind the last =)
  faults   executed, then no good answer: applied_timeout applied_reset applied_5xx applied_garbage truncated
             flood(BYTES) endless drip
           not executed: timeout reset 5xx garbage throttle concurrency inner_reject
           answers of createOrder: refuse(100,TEXT) inner_refuse(1,TEXT), not executed; applied_refuse(100,TEXT)
             created(0,TEXT) created(20,TEXT) created_check_fail, executed
           misconfigured: sid signature permission warehouse_access ip clock version second_factor
           the ERP's own failures: database applied_database other no_status
           later: slow(100ms) slow(100ms..2s) delayed_apply(2s) late(5s)
           data: strip_remark rewrite_remark cut_remark(60) prefix_remark modify(2) ignore_page hide_warehouse(1001) stale(10m) stale(2026-01-31 10:00:00)
             (the last three also with ,with_status or ,without_status before the bracket); bom
           pages of a window, one of these an answer: withhold withhold_double short_page(7) neighbour_page
             count_off(-1) count_off(1) broken_character raw_newline (also with a record's number in brackets)
             empty_form(FORM): data_array data_object data_null data_absent order_object order_null order_absent
           (no read meets two low counts, or one beside a row that is withheld: that cannot be recognised)";

/// Runs a stand-in for the ERP: both editions over HTTP, with its checks and quota, a ledger, and
/// scripted faults.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct SimulateArgs {
    /// Where the ERP listens; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Where the admin API listens; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,
    /// Print where each behaviour is known from, and end
    #[arg(long)]
    pub sources: bool,
    /// Seed of the data, the shuffled page order and the injected faults
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Purchase returns to make up, over the last seven days
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub returns: u32,
    /// Outbound orders to make up, over the last seven days
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub outbounds: u32,
    /// Statuses of the outbound orders made up: those of this product line
    #[arg(long, default_value = "flagship", value_parser = parse_edition, value_name = "flagship|enterprise")]
    pub outbound_statuses: Edition,
    /// Time between executing a call and answering it
    #[arg(long, default_value = "0ms", value_parser = parse_span, value_name = "DURATION")]
    pub latency: Duration,
    /// Calls within any sixty seconds, for each kind of call; 0 for no limit
    #[arg(long, default_value_t = 60, value_name = "N")]
    pub quota: u32,
    /// Count all calls of an appkey together
    #[arg(long)]
    pub quota_by_account: bool,
    /// Requests of one appkey at once; 0 for no limit
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub max_concurrent: u32,
    /// Let createOrder accept returns, warehouses and SKUs that do not exist
    #[arg(long)]
    pub auto_returns: bool,
    /// Faults to inject, see below
    #[arg(long, value_name = "RULES", value_parser = parse_faults)]
    pub faults: Vec<Faults>,
    /// Records modified a second by somebody in the background
    #[arg(long, default_value_t = 0.0, value_name = "RATE")]
    pub modifications: f64,
    /// The order in which queries page: id_asc, id_desc, modified_asc, modified_desc or shuffled
    #[arg(long, default_value = "id_asc", value_parser = parse_order, value_name = "ORDER")]
    pub page_order: PageOrder,
    /// With modified_asc and modified_desc: neighbours of equal modified change places by chance
    #[arg(long)]
    pub shuffle_equal: bool,
    /// Most rows of a page, whatever was asked for, without a word; 0 for no limit
    #[arg(long, default_value_t = 0, value_name = "ROWS")]
    pub page_cap: u64,
    /// What the window of the enterprise query is over for shipped orders: modified, or consign_time
    /// as from V2.4.5.6 on
    #[arg(long, default_value = "modified", value_parser = parse_window, value_name = "modified|consign_time")]
    pub enterprise_window: EnterpriseWindow,
    /// How far the ERP's clock runs ahead of this machine's, in milliseconds; negative: behind
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_name = "MILLISECONDS")]
    pub clock_offset: i64,
}

/// The rules of one `--faults`.
#[derive(Clone, Debug)]
pub(super) struct Faults(Vec<Rule>);

fn parse_faults(text: &str) -> Result<Faults, String> {
    parse_rules(text).map(Faults)
}

fn parse_edition(text: &str) -> Result<Edition, String> {
    match text {
        "flagship" => Ok(Edition::Flagship),
        "enterprise" => Ok(Edition::Enterprise),
        _ => Err("it is flagship or enterprise".to_owned()),
    }
}

fn parse_window(text: &str) -> Result<EnterpriseWindow, String> {
    match text {
        "modified" => Ok(EnterpriseWindow::Modified),
        "consign_time" => Ok(EnterpriseWindow::ConsignTime),
        _ => Err("it is modified or consign_time".to_owned()),
    }
}

fn parse_order(text: &str) -> Result<PageOrder, String> {
    match text {
        "id_asc" => Ok(PageOrder::IdAsc),
        "id_desc" => Ok(PageOrder::IdDesc),
        "modified_asc" => Ok(PageOrder::ModifiedAsc),
        "modified_desc" => Ok(PageOrder::ModifiedDesc),
        "shuffled" => Ok(PageOrder::Shuffled),
        _ => Err("it is id_asc, id_desc, modified_asc, modified_desc or shuffled".to_owned()),
    }
}

/// Runs the simulator until SIGINT or SIGTERM.
///
/// # Errors
/// An address that cannot be used.
pub(super) async fn run(args: SimulateArgs) -> anyhow::Result<()> {
    if args.sources {
        let _ = output::say(Sources.to_string().trim_end());
        return Ok(());
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let simulator = Simulator::start(SimulatorConfig {
        listen: args.listen,
        admin_listen: args.admin_listen,
        seed: args.seed,
        latency: args.latency,
        quota_per_minute: (args.quota > 0).then_some(args.quota),
        quota_by_account: args.quota_by_account,
        max_concurrent: (args.max_concurrent > 0).then_some(args.max_concurrent),
        auto_returns: args.auto_returns,
        page_order: args.page_order,
        shuffle_equal: args.shuffle_equal,
        page_cap: (args.page_cap > 0).then_some(args.page_cap),
        enterprise_window: args.enterprise_window,
        clock_offset_ms: args.clock_offset,
        modifications_per_second: args.modifications,
        faults: args.faults.into_iter().flat_map(|faults| faults.0).collect(),
        ..SimulatorConfig::default()
    })
    .await?;
    let control = simulator.control();
    control.seed(Kind::PurchaseReturns, &Seeding::of(args.returns)).map_err(anyhow::Error::msg)?;
    let outbounds = Seeding { edition: args.outbound_statuses, ..Seeding::of(args.outbounds) };
    control.seed(Kind::Outbounds, &outbounds).map_err(anyhow::Error::msg)?;

    let account = simulator.account();
    let line = json!({
        "admin": simulator.url_admin(),
        "flagship": {
            "url": simulator.url_flagship(),
            "sid": account.flagship_sid,
            "key": account.flagship_key,
            "secret": format!("{}:{}", account.flagship_secret, account.flagship_salt),
        },
        "enterprise": {
            "url": simulator.url_enterprise(),
            "sid": account.enterprise_sid,
            "appkey": account.enterprise_appkey,
            "appsecret": account.enterprise_appsecret,
        },
    });
    println!("{line}");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    simulator.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        simulate: SimulateArgs,
    }

    #[test]
    fn the_arguments_are_read() {
        let read = |text: &str| {
            Line::try_parse_from(std::iter::once("simulate").chain(text.split(' ')))
                .map(|line| line.simulate)
        };
        let args = read("--latency 50ms --auto-returns --faults createOrder:refuse(100,a,b)=0.02,query:slow(1ms..2s)=3x --clock-offset -5 --shuffle-equal --page-cap 50")
            .unwrap();
        assert_eq!((args.shuffle_equal, args.page_cap), (true, 50));
        assert_eq!(
            (args.latency, args.faults[0].0.len(), args.clock_offset),
            (Duration::from_millis(50), 2, -5)
        );
        let mistake = read("--faults createOrder:nonsense=1").err().unwrap().to_string();
        assert!(mistake.contains("nonsense"), "{mistake}");
        assert!(read("--latency 50").is_err() && read("--page-order up").is_err());
    }
}
