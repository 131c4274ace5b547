use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use super::*;

struct Running {
    address: std::net::SocketAddr,
    board: Board,
    metrics: Arc<Metrics>,
    token: Token,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

/// `all` listens on every address, so that the token rule applies.
async fn start(all: bool, token: Option<&str>) -> Running {
    let listener = TcpListener::bind(if all { "0.0.0.0:0" } else { "127.0.0.1:0" }).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (board, metrics, shutdown) =
        (Board::default(), Arc::new(Metrics::new()), CancellationToken::new());
    // No broker listens there: what would be written is refused in a sentence.
    let text = "[kafka]\nbootstrap_servers = \"127.0.0.1:1\"\nproperties = { \"socket.timeout.ms\" = \"1000\" }";
    let settings = Arc::new(crate::config::from_toml(text, std::iter::empty()).unwrap().settings);
    let token = Token::new(token.map(SecretString::from));
    let (_, settings) = watch::channel(settings);
    let parts = Parts {
        board: board.clone(),
        metrics: Arc::clone(&metrics),
        token: token.clone(),
        settings,
        levels: Levels::fixed(),
    };
    let task = tokio::spawn(serve(Arc::new(listener), parts, shutdown.clone()));
    Running { address: ([127, 0, 0, 1], port).into(), board, metrics, token, shutdown, task }
}

impl Running {
    /// Sends bytes as they are; the whole answer.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn get(&self, path: &str, headers: &str) -> (u16, String, String) {
        let answer =
            self.raw(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
    }

    async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let answer =
            self.raw(&format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{headers}\r\n{body}")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn health_and_readiness_follow_the_board() {
    let running = start(false, None).await;
    assert_eq!(running.get("/healthz", "").await.0, 200);
    assert_eq!(running.get("/readyz", "").await.2, "ok\n");
    running.board.ready("commands", Err("waiting for partitions\nof the group".to_owned()));
    let (code, _, body) = running.get("/readyz", "").await;
    assert_eq!((code, body.as_str()), (503, "commands: waiting for partitions of the group\n"));
    running.board.ready("commands", Ok(()));
    assert_eq!(running.get("/readyz", "").await.0, 200);
    // A limit of zero is exceeded as soon as the clock's next millisecond begins.
    let pulse = running.board.pulse("commit", Duration::ZERO);
    let begun = crate::clock::Moment::now();
    while crate::clock::Moment::now() == begun {
        tokio::task::yield_now().await;
    }
    let (code, _, body) = running.get("/healthz", "").await;
    assert!(code == 503 && body.starts_with("commit: no progress for 0."), "{body}");
    drop(pulse);
    assert_eq!(running.get("/healthz", "").await.0, 200);
    running.stop().await;
}

#[tokio::test]
async fn status_shows_every_section() {
    let running = start(false, None).await;
    running.board.set("commands", json!({ "pending": 3 }));
    running.board.ready("feeds", Err("restoring".to_owned()));
    let (code, head, body) = running.get("/status", "").await;
    assert!(code == 200 && head.contains("content-type: application/json"));
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["sections"]["commands"]["pending"], 3);
    assert_eq!(status["ready"], false);
    assert_eq!(status["unready"][0]["reason"], "restoring");
    assert!(status["uptime_seconds"].is_u64());
    running.stop().await;
}

#[tokio::test]
async fn metrics_are_open_metrics() {
    let running = start(true, Some("hush")).await;
    running.metrics.command_received();
    let (code, head, body) = running.get("/metrics", "").await;
    assert_eq!(code, 200);
    assert!(head.contains("application/openmetrics-text; version=1.0.0"));
    assert!(
        body.contains("wdt_connector_commands_received_total 1\n") && body.ends_with("# EOF\n")
    );
    running.stop().await;
}

#[tokio::test]
async fn the_page_runs_only_its_own_script() {
    let running = start(false, None).await;
    let (code, head, body) = running.get("/", "").await;
    assert!(code == 200 && head.contains("content-type: text/html"));
    let policy = head.lines().find(|line| line.starts_with("content-security-policy")).unwrap();
    assert!(
        policy.contains("default-src 'none'")
            && policy.contains("script-src 'sha256-")
            && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(head.matches("content-security-policy").count(), 1);
    assert!(
        body.contains("document.createElement")
            && !body.contains("/*SCRIPT*/")
            && !body.contains("innerHTML")
    );
    // The one address in it is the name of a vocabulary, which nobody fetches.
    let body = body.replace("http://www.w3.org/2000/svg", "");
    assert!(
        !body.contains("http://") && !body.contains("https://"),
        "the page fetches nothing from elsewhere"
    );
    running.stop().await;
}

#[tokio::test]
async fn off_loopback_only_probes_and_metrics_are_open() {
    let running = start(true, Some("hush")).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(running.get(path, "").await.0, 200, "{path}");
    }
    for path in ["/", "/status", "/events", "/commands?return_no=R&command_id=c", "/log"] {
        let (code, head, _) = running.get(path, "").await;
        assert!(code == 401 && head.contains("www-authenticate"), "{path}");
        for wrong in ["Bearer hus", "Bearer hushh", "Bearer", "hush", "Basic ???", "Basic aHVzaA=="]
        {
            assert_eq!(
                running.get(path, &format!("authorization: {wrong}\r\n")).await.0,
                401,
                "{wrong}"
            );
        }
    }
    for path in ["/", "/status", "/log"] {
        assert_eq!(running.get(path, "authorization: Bearer hush\r\n").await.0, 200);
        assert_eq!(running.get(path, "authorization: basic d2R0Omh1c2g=\r\n").await.0, 200);
    }
    running.token.replace(Some("psst".into()));
    assert_eq!(running.get("/status", "authorization: Bearer hush\r\n").await.0, 401);
    assert_eq!(running.get("/status", "authorization: Bearer psst\r\n").await.0, 200);
    running.stop().await;
    let without = start(true, None).await;
    assert_eq!(without.get("/status", "authorization: Bearer \r\n").await.0, 401);
    without.stop().await;
}

#[tokio::test]
async fn a_foreign_name_for_loopback_is_refused() {
    let running = start(false, None).await;
    for (host, code) in [
        ("evil.example", "403"),
        ("evil.example:80", "403"),
        ("127.0.0.1:9600", "200"),
        ("[::1]:9600", "200"),
        ("LOCALHOST", "200"),
    ] {
        let answer = running.raw(&format!("GET /status HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(answer.split(' ').nth(1), Some(code), "{host}");
    }
    running.stop().await;
}

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let running = start(false, None).await;
    for path in ["/", "/status", "/healthz", "/metrics", "/nothing"] {
        let (_, head, _) = running.get(path, "").await;
        for header in [
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(head.contains(header), "{path}: {header}");
        }
    }
    assert!(
        running
            .raw("POST /status HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 405")
    );
    running.stop().await;
}

#[tokio::test]
async fn large_heads_and_nonsense_end_the_connection() {
    let running = start(false, None).await;
    let large = format!(
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "a".repeat(2 * MAX_HEAD)
    );
    assert!(!running.raw(&large).await.starts_with("HTTP/1.1 200"));
    let many = format!(
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\n{}\r\n",
        "x: y\r\n".repeat(MAX_HEADERS + 1)
    );
    assert!(!running.raw(&many).await.starts_with("HTTP/1.1 200"));
    assert!(!running.raw("\0\0\0\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    assert_eq!(running.get("/healthz", "").await.0, 200);
    running.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed_at_once() {
    let running = start(false, None).await;
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        idle.push(TcpStream::connect(running.address).await.unwrap());
    }
    let mut one_more = TcpStream::connect(running.address).await.unwrap();
    let mut answer = Vec::new();
    // Within less than a silent connection is suffered for.
    let ended = timeout(HEAD_TIMEOUT / 2, one_more.read_to_end(&mut answer)).await;
    assert!(ended.is_ok() && answer.is_empty());
    drop(idle);
    running.stop().await;
}

#[tokio::test]
async fn live_pages_beyond_the_cap_are_told_so() {
    let running = start(false, None).await;
    let mut live = Vec::new();
    for number in 0..=routes::MAX_STREAMS {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        let wanted = if number < routes::MAX_STREAMS { b"HTTP/1.1 200" } else { b"HTTP/1.1 503" };
        assert_eq!(&head, wanted, "{number}");
        live.push(stream);
    }
    drop(live);
    running.stop().await;
}

/// How long a connection lasts on which this is sent and everything is read, by a clock that runs
/// as fast as nothing happens.
async fn lasts(request: &str) -> Duration {
    let running = start(false, None).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    tokio::time::pause();
    let begun = Instant::now();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    let lasted = begun.elapsed();
    tokio::time::resume();
    running.stop().await;
    lasted
}

#[tokio::test]
async fn no_connection_outlasts_its_time() {
    const LEEWAY: Duration = Duration::from_secs(3);
    let within =
        |lasted: Duration, limit: Duration| lasted + LEEWAY >= limit && lasted <= limit + LEEWAY;
    let silent = lasts("G").await;
    assert!(within(silent, HEAD_TIMEOUT), "{silent:?}");
    let half =
        lasts("PUT /log HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\ndebug").await;
    assert!(within(half, CONNECTION_TIMEOUT), "{half:?}");
    let live = lasts("GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(within(live, STREAM_TIMEOUT), "{live:?}");
}

#[tokio::test]
async fn nothing_changes_by_get_nor_for_another_page_nor_without_the_token() {
    let running = start(false, None).await;
    for (path, code) in
        [("/pipelines/commands/pause", 405), ("/pipelines/commands/stop", 405), ("/log", 200)]
    {
        assert_eq!(running.get(path, "").await.0, code, "{path}");
    }
    for foreign in [
        "origin: http://evil.example\r\n",
        "origin: null\r\n",
        "sec-fetch-site: cross-site\r\n",
        "sec-fetch-site: same-site\r\n",
    ] {
        let (code, body) = running.send("POST", "/pipelines/commands/pause", foreign, "").await;
        assert!(code == 403 && body.contains("another page"), "{foreign}: {code} {body}");
        assert_eq!(running.send("PUT", "/log", foreign, "debug").await.0, 403);
    }
    let (code, body) = running.send("POST", "/pipelines/nowhere/pause", "", "").await;
    assert!(code == 404 && body.contains("purchase_returns"), "{body}");
    assert_eq!(running.send("POST", "/pipelines/commands/stop", "", "").await.0, 404);
    // It may be asked for, but there is no broker to remember it.
    let own = "origin: http://localhost\r\nsec-fetch-site: same-origin\r\n";
    let (code, body) = running.send("POST", "/pipelines/commands/pause", own, "").await;
    assert!(code == 502 && body.contains("was not told, because"), "{code} {body}");
    let (code, body) = running.send("PUT", "/log", own, "debug").await;
    assert!(code == 400 && body.contains("cannot be changed"), "{code} {body}");
    assert_eq!(running.send("PUT", "/log", "", &"a".repeat(5000)).await.0, 413);
    // With a token even loopback may not change anything without it.
    running.token.replace(Some("hush".into()));
    assert_eq!(running.get("/status", "").await.0, 200);
    assert_eq!(running.send("POST", "/pipelines/commands/pause", "", "").await.0, 401);
    assert_eq!(
        running
            .send("POST", "/pipelines/nowhere/pause", "authorization: Bearer hush\r\n", "")
            .await
            .0,
        404
    );
    running.stop().await;
}

#[tokio::test]
async fn the_page_is_told_of_everything_at_once_and_of_new_stories_only_when_there_are_some() {
    let running = start(false, None).await;
    running.board.set("commands", json!({ "received": 3 }));
    running.board.tell(crate::board::Story::Result, json!({ "outcome": "CREATED" }));
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while seen.matches("event: status").count() < 3 || !seen.contains("event: samples") {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "the stream ended: {seen}");
        seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    assert!(seen.to_lowercase().contains("content-type: text/event-stream"), "{seen}");
    assert_eq!(seen.matches("\"recent\"").count(), 1, "{seen}");
    assert!(seen.contains("\"CREATED\"") && seen.contains("retry: 1000"));
    running.stop().await;
}

#[tokio::test]
async fn a_command_is_followed_by_its_id() {
    let running = start(false, None).await;
    running.board.step(("TH/1 ü", "c"), "call", "unknown", Some("reset".into()));
    let (code, _, body) = running.get("/commands?return_no=TH%2F1%20%C3%BC&command_id=c", "").await;
    let way: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (code, &way["steps"][0]["result"], &way["steps"][0]["detail"]),
        (200, &json!("unknown"), &json!("reset"))
    );
    let (code, _, body) = running.get("/commands?return_no=TH1&command_id=d", "").await;
    assert!(code == 404 && body.contains("commands show"), "{body}");
    assert_eq!(running.get("/commands?return_no=TH1", "").await.0, 400);
    running.stop().await;
}
