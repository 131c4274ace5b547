//! Against a server of bytes: what leaves, what comes back, and what is said about it.

use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::{super::Class, *};
use crate::{
    clock::Timestamp,
    config::{EnterpriseSettings, ErpConnection, FlagshipSettings, QuotaScope, QuotaSettings},
    decimal::Decimal,
    erp::{OrderLine, SendGuard},
};

const SECRET: &str = "topsecret";
const SALT: &str = "pepper";
const KEY: &str = "my-appkey";
const LONG: Duration = Duration::from_secs(20);

fn erp_at(url: &str) -> Erp {
    let connection =
        ErpConnection { url: url.to_owned(), connect_timeout: LONG, ca_file: None, proxy: None };
    let quota = Quota::new(&QuotaSettings {
        scope: QuotaScope::Call,
        calls_per_minute: 6_000_000,
        burst: 1000,
        share: 1.0,
        max_concurrent_calls: 16,
    });
    let flagship = FlagshipSettings {
        connection: connection.clone(),
        sid: "my-sid".to_owned(),
        key: KEY.to_owned(),
        secret: format!("{SECRET}:{SALT}").into(),
        rejected_texts: Vec::new(),
    };
    let enterprise = EnterpriseSettings {
        connection,
        sid: "their-sid".to_owned(),
        appkey: KEY.to_owned(),
        appsecret: SECRET.to_owned().into(),
    };
    Erp(Arc::new(Inner {
        replaced: AtomicU64::new(0),
        accounts: RwLock::new(Arc::new(Accounts {
            flagship: Some(Flagship::new(&flagship).unwrap()),
            enterprise: Some(Enterprise::new(&enterprise).unwrap()),
        })),
        quota,
        metrics: Arc::new(Metrics::new()),
    }))
}

/// What the server does with a request it has read whole.
#[derive(Clone)]
enum Then {
    /// Sends these bytes and closes.
    Say(Vec<u8>),
    /// Keeps the connection and says nothing.
    Wait,
    /// Closes without a word.
    Close,
}

/// A server that reports every connection's bytes once the client has sent a whole request or
/// closed.
async fn server(then: Then) -> (String, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/openapi", listener.local_addr().unwrap());
    let (seen, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, then.clone(), seen.clone()));
        }
    });
    (url, requests)
}

async fn serve(mut stream: TcpStream, then: Then, seen: mpsc::UnboundedSender<Vec<u8>>) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while !whole(&bytes) {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
    let complete = whole(&bytes);
    let _ = seen.send(bytes);
    match then {
        Then::Say(answer) if complete => {
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
        Then::Wait if complete => {
            let _ = stream.read(&mut buffer).await;
        }
        Then::Close | Then::Say(_) | Then::Wait => {}
    }
}

fn whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
    let length: usize = head
        .lines()
        .find_map(|line| {
            line.to_lowercase()
                .strip_prefix("content-length:")
                .map(|value| value.trim().parse().unwrap())
        })
        .expect("a declared length");
    bytes.len() >= head.len() + 4 + length
}

fn answer(status: &str, headers: &str, body: &str) -> Then {
    Then::Say(
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
            .into_bytes(),
    )
}

fn order() -> OrderRequest {
    let line = OrderLine {
        spec_no: "daba1".to_owned(),
        num: Decimal::parse("1").unwrap(),
        unit_name: None,
        position_no: None,
        batch_no: None,
        expire_date: None,
        defect: None,
        remark: None,
    };
    OrderRequest {
        return_no: "CR1".to_owned(),
        warehouse_no: "W1".to_owned(),
        logistics_code: None,
        create_mode: None,
        remark: "#ABC".to_owned(),
        details: vec![line],
    }
}

/// Says yes this many times, then no; counts.
#[derive(Default)]
struct Yes {
    times: u32,
    asked: AtomicU32,
}

impl SendGuard for Yes {
    fn may_send(&self) -> bool {
        self.asked.fetch_add(1, Ordering::SeqCst) < self.times
    }
}

fn yes(times: u32) -> Arc<Yes> {
    Arc::new(Yes { times, asked: AtomicU32::new(0) })
}

async fn create(erp: &Erp, timeout: Duration, guard: Arc<Yes>) -> Answer {
    let permit = erp.quota().acquire(Call::CreateOrder, Class::Command).await;
    erp.create_order(permit, &order(), timeout, guard).await
}

async fn query(erp: &Erp, call: Call, timeout: Duration) -> Result<Page, QueryFault> {
    let permit = erp.quota().acquire(call, Class::Feed).await;
    let selection = Selection {
        window: Some((Timestamp(1_660_000_000_000), Timestamp(1_660_001_000_000))),
        time_type: None,
        return_no: None,
        status: None,
        warehouse_no: None,
        provider_no: None,
    };
    erp.query(permit, &selection, PageRequest { page_no: 0, page_size: 30, count: true }, timeout)
        .await
}

#[track_caller]
fn assert_keeps_secrets(text: &str, url: &str) {
    for secret in [SECRET, SALT, KEY, "sign=", url] {
        assert!(!text.contains(secret), "{secret:?} in {text}");
    }
}

#[tokio::test]
async fn an_order_is_created_with_one_request_that_is_signed_as_sent() {
    let (url, mut requests) = server(answer(
        "200 OK",
        "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
        r#"{"status":0,"data":{"status":0,"message":"CH1"}}"#,
    ))
    .await;
    let erp = erp_at(&url);
    let guard = yes(2);
    assert_eq!(
        create(&erp, LONG, Arc::clone(&guard)).await,
        Answer::Created { outbound_no: "CH1".to_owned() }
    );
    assert_eq!(guard.asked.load(Ordering::SeqCst), 2, "before sending and when the body leaves");
    let request = String::from_utf8(requests.recv().await.unwrap()).unwrap();
    assert!(
        request.starts_with("POST /openapi?key=my-appkey&method=wms.stockout.PurchaseReturn.createOrder&salt=pepper&sid=my-sid&timestamp=")
    );
    assert!(request.ends_with(
        "\r\n\r\n[{\"return_no\":\"CR1\",\"warehouse_no\":\"W1\",\"remark\":\"#ABC\"},[{\"spec_no\":\"daba1\",\"num\":\"1\"}]]"
    ));
    assert!(
        erp.clock(Edition::Flagship).skew_ms.unwrap() < -1_000_000_000,
        "the Date of 1994 is seen"
    );
    assert_eq!(erp.clock(Edition::Enterprise), ErpTime::default());
}

#[tokio::test]
async fn a_guard_that_says_no_before_sending_keeps_everything_back() {
    let (url, mut requests) = server(Then::Wait).await;
    let erp = erp_at(&url);
    assert_eq!(create(&erp, LONG, yes(0)).await, Answer::NotExecuted(NotExecuted::Withheld));
    assert!(requests.try_recv().is_err(), "not even a connection");
    let status = erp.quota().status();
    assert!(
        status.iter().all(|budget| budget.out == 0 && budget.used.values().all(|used| *used == 0)),
        "the permit came back unused"
    );
}

#[tokio::test]
async fn the_guard_is_asked_when_the_call_has_its_place() {
    let (url, mut requests) = server(Then::Wait).await;
    let erp = erp_at(&url);
    let mut places = Vec::new();
    while let Some(place) = erp.quota().place_at_once(Call::CreateOrder) {
        places.push(place);
    }
    let guard = yes(0);
    let mut waiting = Box::pin(create(&erp, LONG, Arc::clone(&guard)));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    assert_eq!(guard.asked.load(Ordering::SeqCst), 0, "what holds now may not hold then");
    assert_eq!(erp.quota().status()[0].waiting_for_place, 1);
    places.pop();
    assert_eq!(waiting.await, Answer::NotExecuted(NotExecuted::Withheld));
    assert_eq!(guard.asked.load(Ordering::SeqCst), 1);
    assert!(requests.try_recv().is_err(), "not even a connection");
    // A call that is given up gives its place to the next one.
    let lost = create(&erp, LONG, yes(2));
    assert!(tokio::time::timeout(Duration::from_millis(200), lost).await.is_err());
    assert!(erp.quota().place_at_once(Call::QueryOutbounds).is_some());
}

#[tokio::test]
async fn a_guard_that_says_no_at_the_last_moment_leaves_an_incomplete_request() {
    let (url, mut requests) = server(Then::Wait).await;
    let erp = erp_at(&url);
    let guard = yes(1);
    assert_eq!(
        create(&erp, LONG, Arc::clone(&guard)).await,
        Answer::NotExecuted(NotExecuted::Withheld)
    );
    assert_eq!(guard.asked.load(Ordering::SeqCst), 2);
    let request = requests.recv().await.unwrap();
    assert!(
        !whole(&request) && !String::from_utf8_lossy(&request).contains("CR1"),
        "{}",
        String::from_utf8_lossy(&request)
    );
}

#[tokio::test]
async fn silence_after_the_request_left_is_unknown_and_unusable() {
    let (url, mut requests) = server(Then::Wait).await;
    let erp = erp_at(&url);
    let (answer, request) =
        tokio::join!(create(&erp, Duration::from_millis(300), yes(2)), requests.recv());
    assert!(whole(&request.unwrap()));
    let Answer::Unknown { reason, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(reason, "no answer within 300ms");
    let fault = query(&erp, Call::QueryOutbounds, Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(fault, QueryFault::Unusable { .. }), "{fault}");
}

#[tokio::test]
async fn a_connection_closed_after_the_request_left_is_unknown() {
    let (url, _requests) = server(Then::Close).await;
    let erp = erp_at(&url);
    let answer = create(&erp, LONG, yes(2)).await;
    let Answer::Unknown { reason, .. } = answer else { panic!("{answer:?}") };
    assert_keeps_secrets(&reason, &url);
    let fault = query(&erp, Call::QueryOutboundsEnterprise, LONG).await.unwrap_err();
    assert!(matches!(fault, QueryFault::Unusable { .. }), "{fault}");
    assert_keeps_secrets(&fault.to_string(), &url);
}

#[tokio::test]
async fn a_refused_connection_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/openapi", listener.local_addr().unwrap());
    drop(listener);
    let erp = erp_at(&url);
    let answer = create(&erp, LONG, yes(2)).await;
    let Answer::NotExecuted(NotExecuted::Unreachable { reason }) = answer else {
        panic!("{answer:?}")
    };
    assert!(reason.contains("refused"), "{reason}");
    assert_keeps_secrets(&reason, &url);
    for call in [Call::QueryPurchaseReturns, Call::QueryOutboundsEnterprise] {
        let fault = query(&erp, call, LONG).await.unwrap_err();
        assert!(matches!(fault, QueryFault::Unreachable { .. }), "{fault}");
        assert_keeps_secrets(&fault.to_string(), &url);
    }
}

/// `https` settings that work where no certificate authorities are installed.
fn with_authority(url: &str, proxy: Option<String>) -> FlagshipSettings {
    let ca_file = Some(concat!(env!("CARGO_MANIFEST_DIR"), "/src/erp/testdata/ca.pem").into());
    let connection = ErpConnection { url: url.to_owned(), connect_timeout: LONG, ca_file, proxy };
    FlagshipSettings {
        connection,
        sid: "my-sid".to_owned(),
        key: KEY.to_owned(),
        secret: format!("{SECRET}:{SALT}").into(),
        rejected_texts: Vec::new(),
    }
}

#[tokio::test]
async fn a_time_out_before_the_request_left_is_unreachable() {
    // A proxy that accepts the connection but never opens the tunnel: the request cannot leave.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let flagship =
        Flagship::new(&with_authority("https://erp.invalid/openapi", Some(proxy))).unwrap();
    let guard = yes(9);
    let judged = flagship.create_order(&order(), Duration::from_millis(300), guard.clone()).await;
    assert!(
        matches!(judged.outcome, Answer::NotExecuted(NotExecuted::Unreachable { .. })),
        "{:?}",
        judged.outcome
    );
    assert_eq!(guard.asked.load(Ordering::SeqCst), 0, "the body was never asked for");
}

#[tokio::test]
async fn a_failed_tls_handshake_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/openapi", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let flagship = Flagship::new(&with_authority(&url, None)).unwrap();
    let answer = flagship.create_order(&order(), LONG, yes(9)).await.outcome;
    let Answer::NotExecuted(NotExecuted::Unreachable { reason }) = answer else {
        panic!("{answer:?}")
    };
    assert_keeps_secrets(&reason, &url);
}

#[test]
fn what_no_client_can_be_built_from_is_named_by_its_key() {
    let mut settings = with_authority("https://erp.invalid/openapi", None);
    settings.connection.ca_file = Some("/nowhere/ca.pem".into());
    assert!(
        Flagship::new(&settings)
            .unwrap_err()
            .to_string()
            .starts_with("erp.flagship.ca_file /nowhere/ca.pem cannot be read")
    );
    settings.connection.ca_file = Some(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into());
    assert!(Flagship::new(&settings).unwrap_err().to_string().contains("holds no PEM certificate"));
    for url in ["", "erp.invalid", "ftp://erp.invalid"] {
        let fault = Flagship::new(&with_authority(url, None)).unwrap_err().to_string();
        assert_eq!(fault, "erp.flagship.url is not an http:// or https:// address", "{url}");
    }
    let fault = Flagship::new(&with_authority("https://erp.invalid", Some("::".to_owned())))
        .unwrap_err()
        .to_string();
    assert!(fault.starts_with("erp.flagship.proxy cannot be used"), "{fault}");
}

#[tokio::test]
async fn a_server_error_garbage_and_a_redirect_are_unknown_and_nothing_is_followed() {
    for (status, headers, body) in [
        ("500 Internal Server Error", "", r#"{"status":0,"data":{"status":0,"message":"CH1"}}"#),
        ("200 OK", "", "<html>oops</html>"),
        ("302 Found", "location: /elsewhere\r\n", ""),
        ("307 Temporary Redirect", "location: /elsewhere\r\n", ""),
    ] {
        let (url, mut requests) = server(answer(status, headers, body)).await;
        let erp = erp_at(&url);
        let answer = create(&erp, LONG, yes(2)).await;
        assert!(matches!(answer, Answer::Unknown { .. }), "{status}: {answer:?}");
        requests.recv().await.unwrap();
        assert!(requests.try_recv().is_err(), "{status}: one request only");
        let fault = query(&erp, Call::QueryPurchaseReturns, LONG).await.unwrap_err();
        let expected = if status.starts_with('3') { "refuses" } else { "no usable answer" };
        assert!(fault.to_string().contains(expected), "{fault}");
        assert!(!fault.to_string().contains("oops"), "{fault}");
    }
}

/// A gateway between us and the ERP has a clock of its own.
#[tokio::test]
async fn only_answers_of_the_erp_teach_its_clock() {
    let page = include_str!("../testdata/flagship-outbound-query.json");
    for (status, body, teaches) in [
        ("502 Bad Gateway", "<html>Bad Gateway</html>", false),
        ("502 Bad Gateway", page, false),
        ("302 Found", "", false),
        ("403 Forbidden", "{}", false),
        ("404 Not Found", r#"{"status":404,"message":"Not Found"}"#, false),
        ("429 Too Many Requests", "", false),
        ("200 OK", "<html>maintenance</html>", false),
        ("200 OK", r#"{"error":"upstream","message":"no healthy upstream"}"#, false),
        ("200 OK", r#"{"status":0,"data":7}"#, false),
        ("200 OK", page, true),
        ("200 OK", r#"{"status":7,"message":"timestamp"}"#, true),
        ("200 OK", r#"{"status":4711,"message":"of a later version"}"#, true),
    ] {
        let then = answer(status, "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", body);
        let (url, _requests) = server(then).await;
        let erp = erp_at(&url);
        let _ = query(&erp, Call::QueryOutbounds, LONG).await;
        assert_eq!(
            erp.clock(Edition::Flagship).latest.is_some(),
            teaches,
            "query: {status} {body}"
        );
        let erp = erp_at(&url);
        create(&erp, LONG, yes(2)).await;
        let teaches = teaches && body != page;
        assert_eq!(
            erp.clock(Edition::Flagship).latest.is_some(),
            teaches,
            "order: {status} {body}"
        );
    }
}

#[tokio::test]
async fn an_oversized_answer_is_not_read_to_its_end() {
    let declared =
        Then::Say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 33 << 20).into_bytes());
    let mut streamed = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
    streamed.resize((33 << 20) + 100, b' ');
    for then in [declared, Then::Say(streamed)] {
        let (url, _requests) = server(then).await;
        let erp = erp_at(&url);
        let answer = create(&erp, LONG, yes(2)).await;
        let Answer::Unknown { reason, .. } = answer else { panic!("{answer:?}") };
        assert!(reason.contains("longer than 1048576 bytes"), "{reason}");
        let fault = query(&erp, Call::QueryOutbounds, LONG).await.unwrap_err();
        assert!(
            matches!(&fault, QueryFault::TooLong { reason, .. } if reason.contains("longer than 33554432 bytes")),
            "{fault}"
        );
    }
}

#[tokio::test]
async fn a_page_comes_with_its_count_and_its_times() {
    let body = include_str!("../testdata/flagship-outbound-query.json");
    let (url, _requests) =
        server(answer("200 OK", "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n", body)).await;
    let page = query(&erp_at(&url), Call::QueryOutbounds, LONG).await.unwrap();
    assert_eq!(
        (page.rows.len(), page.total_count, page.erp_date),
        (1, Some(1), Some(Timestamp(784_111_777_000)))
    );
    let (url, mut requests) =
        server(answer("200 OK", "", include_str!("../testdata/enterprise-outbound-query.json")))
            .await;
    let page = query(&erp_at(&url), Call::QueryOutboundsEnterprise, LONG).await.unwrap();
    assert_eq!((page.rows.len(), page.total_count, page.erp_date), (1, Some(1), None));
    let request = String::from_utf8(requests.recv().await.unwrap()).unwrap();
    assert!(
        request.starts_with("POST /openapi/stockout_order_query_return.php HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.contains("content-type: application/x-www-form-urlencoded\r\n"), "{request}");
}

#[tokio::test]
async fn a_refusal_by_the_quota_slows_the_budget_and_the_unseen_is_counted() {
    let (url, _requests) = server(answer(
        "200 OK",
        "",
        r#"{"status":100,"message":"超过每分钟最大调用频率限制,请稍后重试"}"#,
    ))
    .await;
    let erp = erp_at(&url);
    assert!(matches!(
        create(&erp, LONG, yes(2)).await,
        Answer::NotExecuted(NotExecuted::Throttled { .. })
    ));
    let budget =
        erp.quota().status().into_iter().find(|budget| budget.call == "create_order").unwrap();
    assert_eq!((budget.refused, budget.cooldown_until.is_some()), (1, true));
    let (url, _requests) = server(answer("200 OK", "", r#"{"status":4711,"message":"?"}"#)).await;
    let erp = erp_at(&url);
    assert!(matches!(create(&erp, LONG, yes(2)).await, Answer::Unlisted { .. }));
    assert!(erp.0.metrics.render().contains("wdt_connector_erp_unknown_responses_total 1\n"));
}

#[tokio::test]
async fn a_call_without_account_is_misconfigured_and_names_the_section() {
    let erp = Erp(Arc::new(Inner {
        replaced: AtomicU64::new(0),
        accounts: RwLock::new(Arc::new(Accounts { flagship: None, enterprise: None })),
        quota: Quota::new(&QuotaSettings {
            scope: QuotaScope::Call,
            calls_per_minute: 6_000_000,
            burst: 1000,
            share: 1.0,
            max_concurrent_calls: 16,
        }),
        metrics: Arc::new(Metrics::new()),
    }));
    let Answer::Misconfigured(refusal) = create(&erp, LONG, yes(2)).await else {
        panic!("not misconfigured")
    };
    assert!(refusal.message.contains("[erp.flagship]"));
    assert!(
        query(&erp, Call::QueryOutboundsEnterprise, LONG)
            .await
            .unwrap_err()
            .to_string()
            .contains("[erp.enterprise]")
    );
}

#[tokio::test]
async fn secrets_stay_out_of_debug_output() {
    let url = "http://127.0.0.1:1/openapi";
    let erp = erp_at(url);
    let permit = erp.quota().acquire(Call::CreateOrder, Class::Command).await;
    let text = format!("{erp:#?} {permit:#?}");
    assert_keeps_secrets(&text, url);
    assert!(text.contains("my-sid"));
    assert_eq!(
        [erp.sid(Call::CreateOrder), erp.sid(Call::QueryOutboundsEnterprise)],
        ["my-sid", "their-sid"]
    );
}

/// What logs hold of a call at the finest level.
#[tokio::test]
async fn secrets_stay_out_of_logs() {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (url, _requests) = server(answer("200 OK", "", r#"{"status":4711,"message":"?"}"#)).await;
    let erp = erp_at(&url);
    create(&erp, LONG, yes(2)).await;
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("unknown ERP response"), "{text}");
    for secret in [SECRET, SALT, KEY, "sign="] {
        assert!(!text.contains(secret), "{text}");
    }
}
