//! How many signed and ledgered `createOrder` calls a second the simulator takes: the ceiling of every command benchmark.
//!
//! `cargo bench --bench simulator [-- REQUESTS CONNECTIONS]` prints one JSON line. The requests are signed beforehand and the
//! loader runs on the main thread, so `cpu_us_per_order` (all other threads) is the simulator's alone, however busy the
//! machine is; `per_second` is what is left of it there.

use std::{
    fmt::Write as _,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use md5::{Digest as _, Md5};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use wdt_connector::simulator::{Account, Simulator, SimulatorConfig};

const FLAGSHIP_EPOCH: u64 = 1_325_347_200;

/// One complete HTTP request, signed for the simulator's account.
fn request(account: &Account, n: usize, timestamp: u64) -> Vec<u8> {
    let body = format!(
        "[{{\"return_no\":\"CR{:06}\",\"warehouse_no\":\"1001\",\"create_mode\":0,\"remark\":\"#{n:013} 质量问题退货\"}},[{{\"spec_no\":\"SKU-00001\",\"num\":\"1.5000\"}},{{\"spec_no\":\"SKU-00002\",\"num\":\"2\"}}]]",
        n % 10_000
    );
    let Account { flagship_sid: sid, flagship_key: key, flagship_salt: salt, flagship_secret: secret, .. } = account;
    let method = "wms.stockout.PurchaseReturn.createOrder";
    let signed = format!("{secret}body{body}key{key}method{method}salt{salt}sid{sid}timestamp{timestamp}v1.0{secret}");
    let sign = Md5::digest(signed).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    format!(
        "POST /openapi?sid={sid}&key={key}&salt={salt}&method={method}&v=1.0&timestamp={timestamp}&sign={sign} HTTP/1.1\r\nHost: erp\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sends each request when the one before is answered.
async fn converse(address: String, requests: Vec<Vec<u8>>) -> anyhow::Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut took = Vec::with_capacity(requests.len());
    let mut answer = Vec::with_capacity(1024);
    for request in requests {
        let sent = Instant::now();
        stream.write_all(&request).await?;
        answer.clear();
        // A good answer ends like this and like nothing else.
        while !answer.ends_with(b"\"status\":0}}") {
            anyhow::ensure!(stream.read_buf(&mut answer).await? > 0 && answer.len() < 4096, "the simulator did not create an order");
        }
        took.push(sent.elapsed());
    }
    Ok(took)
}

/// CPU seconds of every thread but this one.
fn server_cpu() -> f64 {
    let seconds = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    seconds(ClockId::ProcessCPUTime) - seconds(ClockId::ThreadCPUTime)
}

fn milliseconds(took: &[Duration], permille: usize) -> f64 {
    took.get(took.len() * permille / 1000).map_or(0.0, |took| took.as_secs_f64() * 1000.0)
}

fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let (count, connections) = (numbers.next().unwrap_or(100_000), numbers.next().unwrap_or(32).max(1));
    let server = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let config = SimulatorConfig { auto_returns: true, quota_per_minute: None, ..SimulatorConfig::default() };
    let simulator = server.block_on(Simulator::start(config))?;
    let url = simulator.url_flagship();
    let address = url.trim_start_matches("http://").trim_end_matches("/openapi").to_owned();

    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() - FLAGSHIP_EPOCH;
    let mut shares: Vec<Vec<Vec<u8>>> = vec![Vec::new(); connections];
    for n in 0..count {
        if let Some(share) = shares.get_mut(n % connections) {
            share.push(request(simulator.account(), n, timestamp));
        }
    }
    let loader = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cpu_before = server_cpu();
    let (mut took, elapsed) = loader.block_on(async {
        let begin = Instant::now();
        let tasks: Vec<_> = shares.into_iter().map(|share| tokio::spawn(converse(address.clone(), share))).collect();
        let mut took = Vec::with_capacity(count);
        for task in tasks {
            took.extend(task.await??);
        }
        anyhow::Ok((took, begin.elapsed()))
    })?;
    let cpu = server_cpu() - cpu_before;
    took.sort_unstable();
    let summary = simulator.control().summary();
    anyhow::ensure!(summary.orders == count as u64 && summary.duplicates == 0, "the ledger holds {} orders", summary.orders);
    println!(
        "{{\"bench\":\"simulator\",\"orders\":{count},\"connections\":{connections},\"seconds\":{:.3},\"per_second\":{:.0},\"cpu_us_per_order\":{:.1},\"p50_ms\":{:.3},\"p99_ms\":{:.3}}}",
        elapsed.as_secs_f64(),
        count as f64 / elapsed.as_secs_f64(),
        cpu * 1e6 / count as f64,
        milliseconds(&took, 500),
        milliseconds(&took, 990),
    );
    server.block_on(simulator.stop());
    Ok(())
}
