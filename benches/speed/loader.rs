//! What the simulator takes at best: signed `createOrder` calls as fast as it answers them, without
//! any connector.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use md5::{Digest as _, Md5};

use crate::kit::{
    commands::{SPEC, WAREHOUSE},
    erp::Erp,
};

const FLAGSHIP_EPOCH: u64 = 1_325_347_200;

/// One complete HTTP request, signed for the simulator's account.
fn request(erp: &Erp, number: usize, timestamp: u64) -> Vec<u8> {
    let (secret, salt) = erp.flagship_secret().split_once(':').expect("secret:salt");
    let (sid, key) = (erp.flagship_sid(), erp.flagship_key());
    let body = format!(
        "[{{\"return_no\":\"LD{number:07}\",\"warehouse_no\":\"{WAREHOUSE}\",\"create_mode\":2,\"remark\":\"#{number:013} test\"}},[{{\"spec_no\":\"{SPEC}\",\"num\":\"2\"}}]]"
    );
    let method = "wms.stockout.PurchaseReturn.createOrder";
    let signed = format!(
        "{secret}body{body}key{key}method{method}salt{salt}sid{sid}timestamp{timestamp}v1.0{secret}"
    );
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
fn converse(address: &str, requests: &[Vec<u8>]) {
    let mut stream = TcpStream::connect(address).expect("the simulator listens");
    stream.set_nodelay(true).expect("a socket option");
    let mut answer = [0_u8; 4096];
    for request in requests {
        stream.write_all(request).expect("the simulator reads");
        let mut held = 0;
        // A good answer ends like this and like nothing else.
        while !answer[..held].ends_with(b"\"status\":0}}") {
            let read = stream.read(&mut answer[held..]).expect("the simulator answers");
            assert!(read > 0, "the simulator closed: {}", String::from_utf8_lossy(&answer[..held]));
            held += read;
        }
    }
}

/// Calls a second over `connections` connections; every one of them is in the ledger afterwards.
pub fn calls_per_second(erp: &Erp, count: usize, connections: usize) -> f64 {
    let timestamp =
        SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
            - FLAGSHIP_EPOCH;
    let shares: Vec<Vec<Vec<u8>>> = (0..connections)
        .map(|share| {
            (share..count)
                .step_by(connections)
                .map(|number| request(erp, number, timestamp))
                .collect()
        })
        .collect();
    let before = erp.order_count();
    let began = Instant::now();
    thread::scope(|scope| {
        for share in &shares {
            scope.spawn(|| converse(erp.address(), share));
        }
    });
    let took: Duration = began.elapsed();
    assert_eq!(erp.order_count() - before, count as u64, "every call is ledgered");
    count as f64 / took.as_secs_f64()
}
