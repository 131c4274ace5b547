//! A simulator of the ERP for `demo`, `simulate`, tests and benchmarks: both editions over HTTP, with
//! the ERP's checks, quota and texts, a ledger of its orders, and injected faults.
//!
//! ```text
//! wire ▶ door (account, signature, clock) ▶ world (quota, fault plan) ▶ create | query ▶ table, ledger ▶ wire
//! ```
//!
//! It imports nothing of the client: signatures, times and decimals are its own, so that a mistake
//! cannot cancel out. A request is executed once it has arrived completely. Latency and faults come
//! between that and the answer, so a client that gives up leaves an executed call without an
//! answer, as with the real ERP.

mod admin;
mod amount;
mod argument;
mod control;
mod create;
mod door;
#[doc(hidden)]
pub mod fuzz;
mod ledger;
mod mischief;
mod page;
mod query;
mod quota;
mod record;
mod render;
mod reply;
mod rng;
mod seed;
mod sign;
mod sources;
mod steward;
mod table;
mod time;
mod wire;
mod world;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use control::Control;
pub(crate) use mischief::{Rule, parse_rules};
pub(crate) use query::EnterpriseWindow;
#[cfg(test)]
pub(crate) use quota::MinuteQuota;
pub(crate) use record::{Edition, Kind};
pub(crate) use seed::{Seeding, WAREHOUSES, spec_no};
pub(crate) use sources::Sources;
pub(crate) use table::PageOrder;
pub(crate) use time::parse_span;
pub(crate) use world::Adjust;

/// The calls it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Call {
    /// `wms.stockout.PurchaseReturn.createOrder`
    CreateOrder,
    /// `purchase.PurchaseReturn.queryWithDetail`
    PurchaseReturns,
    /// `wms.stockout.PurchaseReturn.queryWithDetail`
    Outbounds,
    /// `stockout_order_query_return.php`
    EnterpriseOutbounds,
}

impl Call {
    pub(crate) const ALL: [Self; 4] =
        [Self::CreateOrder, Self::PurchaseReturns, Self::Outbounds, Self::EnterpriseOutbounds];

    /// The ERP's name of the call.
    #[must_use]
    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::CreateOrder => "wms.stockout.PurchaseReturn.createOrder",
            Self::PurchaseReturns => "purchase.PurchaseReturn.queryWithDetail",
            Self::Outbounds => "wms.stockout.PurchaseReturn.queryWithDetail",
            Self::EnterpriseOutbounds => "stockout_order_query_return.php",
        }
    }

    /// The word for it in counters and the admin API.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CreateOrder => "create_order",
            Self::PurchaseReturns => "purchase_returns",
            Self::Outbounds => "outbounds",
            Self::EnterpriseOutbounds => "enterprise_outbounds",
        }
    }

    /// The product line it belongs to.
    #[must_use]
    pub(crate) fn edition(self) -> Edition {
        match self {
            Self::CreateOrder | Self::PurchaseReturns | Self::Outbounds => Edition::Flagship,
            Self::EnterpriseOutbounds => Edition::Enterprise,
        }
    }
}

/// The accounts it accepts; made up, so nothing about them is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub flagship_sid: String,
    pub flagship_key: String,
    pub flagship_secret: String,
    pub flagship_salt: String,
    pub enterprise_sid: String,
    pub enterprise_appkey: String,
    pub enterprise_appsecret: String,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            flagship_sid: "wdtsim".to_owned(),
            flagship_key: "wdtsim-ot".to_owned(),
            flagship_secret: "simsecret".to_owned(),
            flagship_salt: "simsalt".to_owned(),
            enterprise_sid: "wdtsim2".to_owned(),
            enterprise_appkey: "wdtsim2-ot".to_owned(),
            enterprise_appsecret: "simappsecret".to_owned(),
        }
    }
}

/// How a simulator starts; all of it but account, addresses and seed can be changed while it runs
/// ([`Adjust`]).
#[derive(Clone, Debug)]
pub(crate) struct SimulatorConfig {
    /// Where the ERP listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the admin API listens: apart from the ERP, so that it answers during an outage.
    pub admin_listen: SocketAddr,
    pub account: Account,
    /// Of records, of the shuffled page order, and of mischief.
    pub seed: u64,
    /// Between executing and answering.
    pub latency: Duration,
    /// Calls in any sixty seconds, for each call; `None`: no limit.
    pub quota_per_minute: Option<u32>,
    /// All calls of an appkey count together.
    pub quota_by_account: bool,
    /// Requests of one appkey at once; `None`: no limit.
    pub max_concurrent: Option<u32>,
    /// `createOrder` accepts returns, warehouses and SKUs that do not exist.
    pub auto_returns: bool,
    pub page_order: PageOrder,
    /// Neighbours of equal `modified` change places by chance on every query that sorts by it.
    pub shuffle_equal: bool,
    /// Most rows of a page, whatever was asked for; `None`: as many as were.
    pub page_cap: Option<u64>,
    pub enterprise_window: EnterpriseWindow,
    pub clock_offset_ms: i64,
    /// Records modified a second by somebody in the background.
    pub modifications_per_second: f64,
    /// The script of mischief to start with.
    pub faults: Vec<Rule>,
    /// How many of the last requests are kept one by one.
    pub request_log: usize,
}

impl Default for SimulatorConfig {
    /// The ERP's quota of 60 (`docs/erp.md#quotas`), no latency, no mischief, free loopback ports.
    /// Returns, warehouses and SKUs have to exist.
    fn default() -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            listen: loopback,
            admin_listen: loopback,
            account: Account::default(),
            seed: 1,
            latency: Duration::ZERO,
            quota_per_minute: Some(60),
            quota_by_account: false,
            max_concurrent: None,
            auto_returns: false,
            page_order: PageOrder::IdAsc,
            shuffle_equal: false,
            page_cap: None,
            enterprise_window: EnterpriseWindow::Modified,
            clock_offset_ms: 0,
            modifications_per_second: 0.0,
            faults: Vec::new(),
            request_log: 100_000,
        }
    }
}

/// Why a simulator did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartFault {
    #[error("the simulator cannot listen on {address}: {fault}; choose a free address")]
    Listen { address: SocketAddr, fault: std::io::Error },
}

/// A running simulator; [`Simulator::stop`] ends it in order, dropping it ends it at once.
#[derive(Debug)]
pub(crate) struct Simulator {
    address: SocketAddr,
    admin_address: SocketAddr,
    account: Account,
    control: Control,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Simulator {
    /// Listens and serves on the runtime it is called in.
    ///
    /// # Errors
    /// [`StartFault::Listen`] when an address cannot be used.
    pub(crate) async fn start(config: SimulatorConfig) -> Result<Self, StartFault> {
        let listen = |address| async move {
            let listener = TcpListener::bind(address).await?;
            let bound = listener.local_addr()?;
            Ok::<_, std::io::Error>((listener, bound))
        };
        let fault = |address| move |fault| StartFault::Listen { address, fault };
        let (listener, address) = listen(config.listen).await.map_err(fault(config.listen))?;
        let (admin_listener, admin_address) =
            listen(config.admin_listen).await.map_err(fault(config.admin_listen))?;

        let world = Arc::new(world::World::new(&config));
        let control = Control::new(Arc::clone(&world));
        world.lock().mischief.add(config.faults);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let account = Arc::new(config.account.clone());
        let server = wire::Server {
            world: Arc::clone(&world),
            account,
            stop: stop.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn(server.accept(listener, address));
        tasks.spawn(admin::serve(admin_listener, control.clone(), stop.clone()));
        tasks.spawn(control::churn(world, stop.clone()));
        Ok(Self { address, admin_address, account: config.account, control, stop, tasks })
    }

    /// The flagship's one endpoint.
    #[must_use]
    pub(crate) fn url_flagship(&self) -> String {
        format!("http://{}/openapi", self.address)
    }

    /// The base under which the enterprise edition's calls are files; ends in a slash.
    #[must_use]
    pub(crate) fn url_enterprise(&self) -> String {
        format!("http://{}/openapi2/", self.address)
    }

    /// The admin API's base, without a slash behind it.
    #[must_use]
    pub(crate) fn url_admin(&self) -> String {
        format!("http://{}/admin", self.admin_address)
    }

    #[must_use]
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// What the admin API offers, in process; cheap to clone.
    #[must_use]
    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// Cuts every connection and waits until all is at rest.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
