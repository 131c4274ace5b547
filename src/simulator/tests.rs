//! The simulator as a client meets it: over real sockets, with a client of the test's own.

mod clients;

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    ledger::Counts,
    record::Change,
    sign::{self, Parameters},
    time::{FLAGSHIP_EPOCH, beijing, parse_beijing},
    world::Outage,
    *,
};

const SAMPLE_RETURNS: &str = include_str!("samples/flagship-purchase-return-query.json");
const SAMPLE_OUTBOUNDS: &str = include_str!("samples/flagship-outbound-query.json");
const SAMPLE_ENTERPRISE: &str = include_str!("samples/enterprise-outbound-query.json");

fn quoted(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn form(pairs: &[(&str, String)]) -> String {
    pairs
        .iter()
        .map(|(name, value)| format!("{name}={}", quoted(value)))
        .collect::<Vec<_>>()
        .join("&")
}

/// Unix seconds of a clock the simulator shares with the test: this machine's.
fn now() -> i64 {
    super::time::Clock::default().now()
}

async fn connect(url: &str) -> TcpStream {
    let host = url.trim_start_matches("http://").split('/').next().unwrap().to_owned();
    TcpStream::connect(host).await.unwrap()
}

fn request(method: &str, target: &str, body: &str) -> String {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: erp\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends one request; head and body of the answer, or the fault that ended the connection.
async fn send(
    url: &str,
    method: &str,
    target: &str,
    body: &str,
) -> std::io::Result<(String, String)> {
    let mut stream = connect(url).await;
    stream.write_all(request(method, target, body).as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok((head.to_owned(), body.to_owned()))
}

fn flagship_target(
    account: &Account,
    method: &str,
    paging: &[(&str, &str)],
    body: &str,
    timestamp: i64,
) -> String {
    let mut pairs = vec![
        ("sid", account.flagship_sid.clone()),
        ("key", account.flagship_key.clone()),
        ("salt", account.flagship_salt.clone()),
        ("method", method.to_owned()),
        ("v", "1.0".to_owned()),
        ("timestamp", (timestamp - FLAGSHIP_EPOCH).to_string()),
    ];
    pairs.extend(paging.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let sign = sign::flagship(
        &Parameters::read(&form(&pairs)).unwrap(),
        body.as_bytes(),
        &account.flagship_secret,
    );
    pairs.push(("sign", sign));
    format!("/openapi?{}", form(&pairs))
}

async fn flagship(
    simulator: &Simulator,
    method: &str,
    paging: &[(&str, &str)],
    body: &Value,
) -> std::io::Result<Value> {
    let body = body.to_string();
    let target = flagship_target(simulator.account(), method, paging, &body, now());
    let (_, text) = send(&simulator.url_flagship(), "POST", &target, &body).await?;
    Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn create(simulator: &Simulator, order: Value) -> std::io::Result<Value> {
    flagship(simulator, Call::CreateOrder.method(), &[], &order).await
}

async fn page(
    simulator: &Simulator,
    call: Call,
    page_no: usize,
    size: usize,
    argument: &Value,
) -> Value {
    let (page_no, size) = (page_no.to_string(), size.to_string());
    let paging = [("page_no", page_no.as_str()), ("page_size", size.as_str()), ("calc_total", "1")];
    flagship(simulator, call.method(), &paging, &json!([argument])).await.unwrap()
}

async fn enterprise(simulator: &Simulator, pairs: &[(&str, &str)]) -> Value {
    let account = simulator.account();
    let mut all = vec![
        ("sid", account.enterprise_sid.clone()),
        ("appkey", account.enterprise_appkey.clone()),
        ("timestamp", now().to_string()),
    ];
    all.extend(pairs.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let sign =
        sign::enterprise(&Parameters::read(&form(&all)).unwrap(), &account.enterprise_appsecret);
    all.push(("sign", sign));
    let (_, text) = send(
        &simulator.url_enterprise(),
        "POST",
        "/openapi2/stockout_order_query_return.php",
        &form(&all),
    )
    .await
    .unwrap();
    serde_json::from_str(&text).unwrap()
}

async fn started(config: SimulatorConfig) -> Simulator {
    Simulator::start(SimulatorConfig { quota_per_minute: None, ..config }).await.unwrap()
}

async fn free() -> Simulator {
    started(SimulatorConfig { auto_returns: true, ..SimulatorConfig::default() }).await
}

fn order(return_no: &str, remark: &str) -> Value {
    json!([{"return_no": return_no, "warehouse_no": "1001", "create_mode": 0, "remark": remark}, [{"spec_no": "daba1", "num": "1"}]])
}

fn window(days: i64) -> Value {
    json!({"start_time": beijing(now() - days * 86_400 + 5), "end_time": beijing(now() + 5)})
}

fn outbound_window(days: i64) -> Value {
    let mut argument = window(days);
    argument["time_type"] = json!(3);
    argument
}

fn ids(answer: &Value, id: &str) -> Vec<u64> {
    answer["data"]["order"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row[id].as_u64().unwrap())
        .collect()
}

/// Names and types, all the way down; lists by their first element.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => json!("null"),
        Value::Bool(_) => json!("bool"),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("string"),
        Value::Array(items) => json!([items.first().map(shape)]),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), shape(value))).collect()
        }
    }
}

#[tokio::test]
async fn answers_have_the_shape_of_the_samples() {
    let simulator = free().await;
    let control = simulator.control();
    let shipped = Seeding { status: Some(110), ..Seeding::of(3) };
    control.seed(Kind::PurchaseReturns, &Seeding::of(3)).unwrap();
    control.seed(Kind::Outbounds, &shipped).unwrap();

    let answer = page(&simulator, Call::PurchaseReturns, 0, 100, &window(30)).await;
    let sample: Value = serde_json::from_str(SAMPLE_RETURNS).unwrap();
    assert_eq!(shape(&answer), shape(&sample));
    assert_eq!(answer["data"]["order"][0]["detail_list"].as_array().unwrap().len(), 3);

    let answer = page(&simulator, Call::Outbounds, 0, 100, &outbound_window(30)).await;
    let mut sample: Value = serde_json::from_str(SAMPLE_OUTBOUNDS).unwrap();
    for attribute in ["prop1", "prop2"] {
        // The page documents it, its example leaves it out.
        sample["data"]["order"][0][attribute] = json!("");
    }
    assert_eq!(shape(&answer), shape(&sample));

    let span = window(30);
    let (start, end) = (span["start_time"].as_str().unwrap(), span["end_time"].as_str().unwrap());
    let answer = enterprise(
        &simulator,
        &[("start_time", start), ("end_time", end), ("status", "110"), ("page_no", "0")],
    )
    .await;
    let sample: Value = serde_json::from_str(SAMPLE_ENTERPRISE).unwrap();
    assert_eq!(shape(&answer), shape(&sample));

    let made = create(&simulator, order("CR1", "#ABCDEFGHIJKLM x")).await.unwrap();
    assert_eq!(
        shape(&made),
        shape(&json!({"status": 0, "data": {"message": "CH20220414136", "status": 0}}))
    );
    assert!(made["data"]["message"].as_str().unwrap().starts_with("CH20"));
    let argument = json!({"src_order_no": "CR1"});
    let answer = page(&simulator, Call::Outbounds, 0, 100, &argument).await;
    assert_eq!(answer["data"]["order"][0].get("consign_time"), None, "absent until shipped");
    simulator.stop().await;
}

#[tokio::test]
async fn a_record_can_be_made_to_answer_exactly_as_the_sample() {
    let simulator = free().await;
    let control = simulator.control();
    let number = control.seed(Kind::Outbounds, &Seeding::of(1)).unwrap().remove(0);
    let sample: Value = serde_json::from_str(SAMPLE_OUTBOUNDS).unwrap();
    let record = &sample["data"]["order"][0];
    let set = json!({
        "set": record, "omit": ["prop1", "prop2"], "modified": "2023-02-07 14:23:27"
    });
    let target = format!("/admin/records/outbounds/{number}");
    let (head, body) =
        send(&simulator.url_admin(), "POST", &target, &set.to_string()).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head} {body}");
    let window = json!({"start_time": "2023-02-01 00:00:00", "end_time": "2023-02-28 00:00:00", "time_type": 3});
    let answer = page(&simulator, Call::Outbounds, 0, 10, &window).await;
    assert_eq!(answer["data"]["order"][0], *record);

    let change =
        serde_json::from_str(r#"{"set":{"weight":123456789012345.67890123,"neu":"é"},"omit":["status"],"restore":["remark"]}"#).unwrap();
    control.modify(Kind::Outbounds, &number, &change).unwrap();
    let json = control.record(Kind::Outbounds, Edition::Flagship, &number).unwrap();
    assert!(
        json.contains(r#""weight":123456789012345.67890123"#) && json.contains(r#""neu":"é""#),
        "{json}"
    );
    assert!(!json.contains(r#""status":"#));
    simulator.stop().await;
}

#[tokio::test]
async fn the_door_checks_account_signature_clock_and_version() {
    let simulator = free().await;
    let body = order("CR1", "").to_string();
    let url = simulator.url_flagship();
    let good = flagship_target(simulator.account(), Call::CreateOrder.method(), &[], &body, now());
    let ask = async |target: &str, body: &str| -> Value {
        let (head, text) = send(&url, "POST", target, body).await.unwrap();
        assert!(head.contains("\r\ndate: ") && head.contains(" GMT"), "{head}");
        serde_json::from_str(&text).unwrap()
    };
    assert_eq!(
        ask(&good, &format!("{body} ")).await["message"],
        "签名验证失败",
        "one byte more than was signed"
    );
    let mut account = simulator.account().clone();
    account.flagship_sid = "other".to_owned();
    let target = flagship_target(&account, Call::CreateOrder.method(), &[], &body, now());
    assert_eq!(ask(&target, &body).await["message"], "sid is not exists");
    for (offset, status) in [(119, 0), (-119, 0), (125, 7), (-125, 7)] {
        let target = flagship_target(
            simulator.account(),
            Call::CreateOrder.method(),
            &[],
            &body,
            now() + offset,
        );
        assert_eq!(ask(&target, &body).await["status"], status, "{offset}");
    }
    simulator.control().adjust(&Adjust { clock_offset_ms: Some(-3_600_000), ..Adjust::default() });
    assert_eq!(ask(&good, &body).await["status"], 7);
    assert_eq!(
        send(&url, "GET", &good, "").await.unwrap().0.lines().next().unwrap(),
        "HTTP/1.1 405 Method Not Allowed"
    );
    let summary = simulator.control().summary();
    assert_eq!((summary.orders, summary.calls["create_order"].refused_account), (2, 5));
    simulator.stop().await;
}

#[tokio::test]
async fn orders_are_refused_in_the_erps_words() {
    let simulator = started(SimulatorConfig::default()).await;
    let control = simulator.control();
    for (return_no, status) in [("OK", 40), ("EDITING", 20)] {
        let seeding = Seeding {
            return_no: Some(return_no.to_owned()),
            status: Some(status),
            ..Seeding::of(1)
        };
        control.seed(Kind::PurchaseReturns, &seeding).unwrap();
    }
    control.adjust(&Adjust {
        forbidden_warehouses: Some(vec!["WH-CD-01".to_owned()]),
        disabled_batches: Some(vec!["B0".to_owned()]),
        ..Adjust::default()
    });
    let line = json!({"spec_no": "SKU-00001", "num": "1.5"});
    let with = |name: &str, value: Value| {
        let mut info = json!({"return_no": "OK", "warehouse_no": "1001"});
        info[name] = value;
        json!([info, [line]])
    };
    let lines = |lines: Value| json!([{"return_no": "OK", "warehouse_no": "1001"}, lines]);
    let cases = [
        (with("return_no", json!("NONE")), 100, "采购退货单不存在"),
        (with("return_no", json!("EDITING")), 100, "出库单对应的采购退换单状态错误"),
        (with("return_no", json!("")), 100, "return_no不能为空"),
        (
            with("return_no", json!("退".repeat(41))),
            100,
            "Data truncation: Data too long for column 'return_no' at row 1",
        ),
        (
            with("remark", json!("备".repeat(256))),
            100,
            "Data truncation: Data too long for column 'remark' at row 1",
        ),
        (
            with("logistics_code", json!("l".repeat(61))),
            100,
            "Data truncation: Data too long for column 'logistics_code' at row 1",
        ),
        (
            with("warehouse_no", json!("wdtapi3-test11")),
            100,
            "仓库编号为 wdtapi3-test11 的仓库不存在!",
        ),
        (with("create_mode", json!(3)), 100, "创建模式不正确"),
        (lines(json!([])), 100, "detailList不能为空"),
        (lines(json!([line, line])), 100, "货品列表中货品不存在或者货品重复"),
        (
            lines(json!([{"spec_no": "nobody's", "num": 1}])),
            100,
            "货品列表中货品不存在或者货品重复",
        ),
        (lines(json!([{"spec_no": "SKU-00001", "num": "0"}])), 100, "货品SKU-00001数量不合法"),
        (
            lines(json!([{"spec_no": "SKU-00001", "num": "1.00001"}])),
            100,
            "货品SKU-00001数量不合法",
        ),
        (lines(json!([{"spec_no": "SKU-00001"}])), 100, "num不能为空"),
        (
            lines(json!([{"spec_no": "SKU-00001", "num": 1, "batch_no": "B0"}])),
            100,
            "批次 B0 不存在或已停用",
        ),
        (json!([{"return_no": "OK", "warehouse_no": "1001"}]), 1, "参数个数不正确,需要2个,实际1个"),
    ];
    for (request, status, message) in &cases {
        let answer = create(&simulator, request.clone()).await.unwrap();
        assert_eq!(answer, json!({"status": status, "message": message}), "{request}");
    }
    assert_eq!(
        create(&simulator, with("warehouse_no", json!("WH-CD-01"))).await.unwrap(),
        json!({"status": 100, "message": "无该仓库权限", "code": "right.required"})
    );
    for (request, status) in [
        (with("retrun_no", json!("OK")), 2),
        (lines(json!([{"spec_no": ["SKU-00001"], "num": 1}])), 1),
        (with("create_mode", json!("x")), 1),
        (json!({}), 1),
    ] {
        let answer = create(&simulator, request.clone()).await.unwrap();
        assert_eq!(answer["status"], status, "{request}");
    }
    assert_eq!(
        create(&simulator, with("remark", json!("备".repeat(255)))).await.unwrap()["status"],
        0
    );
    let counts = control.summary().calls["create_order"];
    assert_eq!((counts.applied, counts.rejected), (1, cases.len() as u64 + 5));
    simulator.stop().await;
}

/// The window rule of clients from V2.4.5.6 on, and of those before.
#[tokio::test]
async fn the_window_of_shipped_enterprise_orders_follows_the_rule_that_is_set() {
    let simulator = free().await;
    let control = simulator.control();
    let seeding = Seeding { edition: Edition::Enterprise, status: Some(110), ..Seeding::of(1) };
    let number = control.seed(Kind::Outbounds, &seeding).unwrap().remove(0);
    let change = serde_json::from_value(json!({
        "modified": "2023-02-20 10:00:00", "consign_time": "2023-02-07 10:00:00",
    }))
    .unwrap();
    control.modify(Kind::Outbounds, &number, &change).unwrap();
    let count = async |day: &str, status: &str| {
        let (start, end) = (format!("2023-02-{day} 00:00:00"), format!("2023-02-{day} 23:59:59"));
        let answer = enterprise(
            &simulator,
            &[("start_time", &start), ("end_time", &end), ("status", status), ("page_no", "0")],
        )
        .await;
        assert_eq!(answer["code"], 0, "{answer}");
        answer["total_count"].as_u64().unwrap()
    };
    let seen = async || [count("20", "110").await, count("07", "110").await, count("07", "").await];
    assert_eq!(seen().await, [1, 0, 1]);
    let rule = Some(EnterpriseWindow::ConsignTime);
    control.adjust(&Adjust { enterprise_window: rule, ..Adjust::default() });
    assert_eq!(seen().await, [0, 1, 1]);
    // Below 95 nothing has changed.
    let change =
        serde_json::from_value(json!({"status": 55, "modified": "2023-02-20 10:00:00"})).unwrap();
    control.modify(Kind::Outbounds, &number, &change).unwrap();
    assert_eq!([count("20", "55").await, count("07", "55").await], [1, 0]);
    let by_number = enterprise(&simulator, &[("stockout_no", &number), ("status", "55")]).await;
    assert_eq!(by_number["total_count"], 1);
    let several = enterprise(&simulator, &[("stockout_no", &number), ("status", "95,110")]).await;
    assert_eq!(several["message"], "状态参数格式不正确");
    simulator.stop().await;
}

#[tokio::test]
async fn queries_are_refused_in_the_erps_words() {
    let simulator = started(SimulatorConfig::default()).await;
    simulator.control().seed(Kind::PurchaseReturns, &Seeding::of(20)).unwrap();
    let wide = json!({"start_time": "2023-01-01 00:00:00", "end_time": "2023-01-31 00:00:01"});
    let whole = json!({"start_time": "2023-01-01 00:00:00", "end_time": "2023-01-31 00:00:00"});
    for call in [Call::PurchaseReturns, Call::Outbounds] {
        let say = |text: &str| json!({"status": 100, "message": text});
        assert_eq!(page(&simulator, call, 0, 10, &json!({})).await, say("参数中必须包含起止时间"));
        assert_eq!(
            page(&simulator, call, 0, 10, &wide).await,
            say("您的查询时间过宽,查询时间不能大于30天")
        );
        assert_eq!(page(&simulator, call, 0, 10, &whole).await["status"], 0);
        let unpaged = flagship(&simulator, call.method(), &[], &json!([whole])).await.unwrap();
        assert_eq!(unpaged, say("此方法仅支持分页查询"));
        let uncounted = flagship(
            &simulator,
            call.method(),
            &[("page_no", "0"), ("page_size", "5")],
            &json!([whole]),
        )
        .await
        .unwrap();
        assert_eq!(uncounted["data"].get("total_count"), None);
    }
    let fuzzy = page(
        &simulator,
        Call::PurchaseReturns,
        0,
        10,
        &json!({"return_no": "CR", "fuzzy_query": true}),
    )
    .await;
    assert_eq!(fuzzy["status"], 100);
    let (start, end) = (wide["start_time"].as_str().unwrap(), wide["end_time"].as_str().unwrap());
    let answer = enterprise(&simulator, &[("start_time", start), ("end_time", end)]).await;
    assert_eq!(
        answer,
        json!({"code": 2104, "message": "start_time与end_time时间跨度不能超过最大范围 30天"})
    );
    for size in ["0", "31"] {
        assert_ne!(
            enterprise(&simulator, &[("src_order_no", "x"), ("page_size", size)]).await["code"],
            0
        );
    }
    assert_eq!(
        enterprise(&simulator, &[("src_order_no", "x"), ("page_no", "0")]).await["total_count"],
        0
    );
    assert_eq!(
        enterprise(&simulator, &[("src_order_no", "x"), ("page_no", "1")]).await.get("total_count"),
        None
    );
    simulator.stop().await;
}

#[tokio::test]
async fn windows_are_closed_and_over_the_right_time() {
    let simulator = started(SimulatorConfig::default()).await;
    let control = simulator.control();
    let at = |text: &str| Seeding {
        from: Some(text.to_owned()),
        to: Some(text.to_owned()),
        ..Seeding::of(1)
    };
    control
        .seed(Kind::Outbounds, &Seeding { status: Some(50), ..at("2023-01-10 00:00:00") })
        .unwrap();
    let shipped = control
        .seed(Kind::Outbounds, &Seeding { status: Some(110), ..at("2023-01-11 00:00:00") })
        .unwrap()
        .remove(0);
    let change = Change { modified: Some("2023-01-12 00:00:00".to_owned()), ..Change::default() };
    control.modify(Kind::Outbounds, &shipped, &change).unwrap();
    let found = async |argument: Value| {
        ids(&page(&simulator, Call::Outbounds, 0, 10, &argument).await, "stockout_id").len()
    };
    let over = |time_type: i64, from: &str, to: &str| json!({"time_type": time_type, "start_time": from, "end_time": to});
    let (ten, eleven, twelve) =
        ("2023-01-10 00:00:00", "2023-01-11 00:00:00", "2023-01-12 00:00:00");
    assert_eq!(found(over(3, ten, ten)).await, 1, "both ends belong to the window");
    assert_eq!(found(over(3, ten, twelve)).await, 2);
    assert_eq!(found(over(3, eleven, eleven)).await, 0, "a modified record has left its old time");
    assert_eq!(found(over(1, ten, twelve)).await, 1, "shipping time: only the shipped one");
    assert_eq!(
        found(json!({"start_time": eleven, "end_time": eleven})).await,
        1,
        "shipping time is the default"
    );
    let mut listed = over(3, ten, twelve);
    listed["status"] = json!("5,50");
    assert_eq!(found(listed).await, 1);

    let asked = async |pairs: &[(&str, &str)]| {
        enterprise(&simulator, pairs).await["total_count"].as_u64().unwrap()
    };
    assert_eq!(
        asked(&[("start_time", ten), ("end_time", twelve)]).await,
        1,
        "without status: shipped and completed only"
    );
    assert_eq!(
        asked(&[("start_time", eleven), ("end_time", eleven), ("status", "110")]).await,
        0,
        "with status: over modified"
    );
    assert_eq!(asked(&[("start_time", twelve), ("end_time", twelve), ("status", "110")]).await, 1);
    control.adjust(&Adjust {
        hidden_warehouses: Some(WAREHOUSES.iter().map(|(no, _)| (*no).to_owned()).collect()),
        ..Adjust::default()
    });
    assert_eq!(
        found(over(3, ten, twelve)).await,
        0,
        "an appkey without rights sees nothing, and no error"
    );
    simulator.stop().await;
}

#[tokio::test]
async fn pages_cover_the_window_once_in_every_order() {
    for page_order in [
        PageOrder::IdAsc,
        PageOrder::IdDesc,
        PageOrder::ModifiedAsc,
        PageOrder::ModifiedDesc,
        PageOrder::Shuffled,
    ] {
        let simulator = started(SimulatorConfig { page_order, ..SimulatorConfig::default() }).await;
        simulator.control().seed(Kind::PurchaseReturns, &Seeding::of(95)).unwrap();
        let mut seen = Vec::new();
        for page_no in 0..5 {
            let answer = page(&simulator, Call::PurchaseReturns, page_no, 20, &window(30)).await;
            assert_eq!(answer["data"]["total_count"], 95);
            seen.extend(ids(&answer, "return_id"));
        }
        assert_eq!(seen.len(), 95);
        let distinct: BTreeSet<u64> = seen.iter().copied().collect();
        assert_eq!(distinct.len(), 95);
        assert_eq!(
            seen.is_sorted(),
            matches!(page_order, PageOrder::IdAsc | PageOrder::ModifiedAsc),
            "{page_order:?}"
        );
        simulator.stop().await;
    }
}

#[tokio::test]
async fn a_record_modified_between_pages_makes_upward_reading_skip_one() {
    let simulator = started(SimulatorConfig::default()).await;
    let to = Some(beijing(now() - 3600));
    simulator
        .control()
        .seed(Kind::PurchaseReturns, &Seeding { to: to.clone(), ..Seeding::of(30) })
        .unwrap();
    let argument = json!({"start_time": beijing(now() - 20 * 86_400), "end_time": to});
    let mut seen: BTreeSet<u64> =
        ids(&page(&simulator, Call::PurchaseReturns, 0, 10, &argument).await, "return_id")
            .into_iter()
            .collect();
    simulator.control().add_faults("purchaseReturns:modify(9)=1x").unwrap();
    for page_no in 1..3 {
        let answer = page(&simulator, Call::PurchaseReturns, page_no, 10, &argument).await;
        assert_eq!(answer["data"]["total_count"], 21, "nine have left the closed window");
        seen.extend(ids(&answer, "return_id"));
    }
    assert!(seen.len() < 30, "some slipped to a page already read");
    simulator.control().add_faults("purchaseReturns:ignore_page=1x").unwrap();
    let ignored = page(&simulator, Call::PurchaseReturns, 2, 10, &argument).await;
    assert_eq!(ignored, page(&simulator, Call::PurchaseReturns, 0, 10, &argument).await);
    simulator.stop().await;
}

#[tokio::test]
async fn the_quota_refuses_the_sixty_first_call_of_each_kind() {
    let simulator =
        Simulator::start(SimulatorConfig { auto_returns: true, ..SimulatorConfig::default() })
            .await
            .unwrap();
    for n in 0..60 {
        assert_eq!(create(&simulator, order("CR1", "")).await.unwrap()["status"], 0, "call {n}");
    }
    let refused = create(&simulator, order("CR1", "")).await.unwrap();
    assert_eq!(refused["status"], 100);
    assert!(refused["message"].as_str().unwrap().contains("超过每分钟最大调用频率限制"));
    let other = page(&simulator, Call::Outbounds, 0, 100, &json!({"src_order_no": "CR1"})).await;
    assert_eq!(
        other["data"]["total_count"], 60,
        "each call has a quota of its own, and the 61st made nothing"
    );
    for _ in 0..60 {
        assert_eq!(enterprise(&simulator, &[("src_order_no", "x")]).await["code"], 0);
    }
    assert_eq!(enterprise(&simulator, &[("src_order_no", "x")]).await["code"], 1012);
    assert_eq!(simulator.control().summary().refused, 2);
    simulator.control().adjust(&Adjust { quota_by_account: Some(true), ..Adjust::default() });
    let other = page(&simulator, Call::PurchaseReturns, 0, 1, &json!({})).await;
    assert_eq!(other["status"], 100, "now they count together: {other}");
    simulator.stop().await;
}

#[tokio::test]
async fn too_many_at_once_are_refused() {
    let simulator = started(SimulatorConfig {
        auto_returns: true,
        max_concurrent: Some(1),
        ..SimulatorConfig::default()
    })
    .await;
    simulator.control().add_faults("createOrder:timeout=1x").unwrap();
    let body = order("CR1", "").to_string();
    let target =
        flagship_target(simulator.account(), Call::CreateOrder.method(), &[], &body, now());
    let mut held = connect(&simulator.url_flagship()).await;
    held.write_all(request("POST", &target, &body).as_bytes()).await.unwrap();
    settled(&simulator, |counts| counts.faulted == 1).await;
    let refused = create(&simulator, order("CR1", "")).await.unwrap();
    assert!(refused["message"].as_str().unwrap().contains("超过每分钟最大并发次数限制"));
    drop(held);
    // The slot is free again as soon as the connection's end is noticed.
    timeout(Duration::from_secs(10), async {
        while create(&simulator, order("CR1", "")).await.unwrap()["status"] != 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(simulator.control().summary().orders, 1);
    simulator.stop().await;
}

/// Waits until the counts of `createOrder` are as wanted.
async fn settled(simulator: &Simulator, wanted: impl Fn(&Counts) -> bool) {
    timeout(Duration::from_secs(10), async {
        while !wanted(&simulator.control().counters()["create_order"]) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn every_lost_answer_leaves_what_it_says() {
    // (fault, makes an order, what the client gets: None for no answer at all)
    let cases = [
        ("applied_reset", true, None),
        ("reset", false, None),
        ("truncated", true, None),
        ("applied_5xx", true, Some("Bad Gateway")),
        ("5xx", false, Some("Bad Gateway")),
        ("applied_garbage", true, Some("Fatal error")),
        ("garbage", false, Some("Fatal error")),
        ("applied_database", true, Some("数据库错误")),
        ("inner_reject", false, Some("\"status\":1")),
        (
            "refuse(100, 不存在物流编码为 MR001 的物流公司, 或业务类型错误!)",
            false,
            Some(
                "{\"status\":100,\"message\":\"不存在物流编码为 MR001 的物流公司, 或业务类型错误!\"}",
            ),
        ),
        (
            "applied_refuse(100,单据创建成功，审核失败)",
            true,
            Some("{\"status\":100,\"message\":\"单据创建成功，审核失败\"}"),
        ),
        (
            "inner_refuse(30,无此单据)",
            false,
            Some("{\"status\":0,\"data\":{\"message\":\"无此单据\",\"status\":30}}"),
        ),
        (
            "created_check_fail",
            true,
            Some(
                "{\"status\":0,\"data\":{\"message\":\"check_fail 审核成功, 推送WMS失败\",\"status\":20}}",
            ),
        ),
        (
            "created(0,创建成功)",
            true,
            Some("{\"status\":0,\"data\":{\"message\":\"创建成功\",\"status\":0}}"),
        ),
        ("throttle", false, Some("频率限制")),
        ("concurrency", false, Some("并发次数限制")),
        ("permission", false, Some("权限不足")),
        ("no_status", false, Some("message")),
        ("flood(100000)", true, Some("   ")),
    ];
    for (fault, makes, says) in cases {
        let simulator = free().await;
        simulator.control().add_faults(&format!("createOrder:{fault}=1x")).unwrap();
        let body = order("CR1", "#ABCDEFGHIJKLM").to_string();
        let target =
            flagship_target(simulator.account(), Call::CreateOrder.method(), &[], &body, now());
        let answer = send(&simulator.url_flagship(), "POST", &target, &body).await;
        match (says, &answer) {
            (None, Err(_)) => {}
            (None, Ok((head, body))) => {
                let declared: usize = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .unwrap()
                    .parse()
                    .unwrap();
                assert!(body.len() < declared, "{fault}: {head}");
            }
            (Some(says), Ok((_, body))) => assert!(body.contains(says), "{fault}: {body}"),
            (Some(_), Err(error)) => panic!("{fault}: {error}"),
        }
        settled(&simulator, |counts| counts.applied_unanswered == u64::from(makes)).await;
        let summary = simulator.control().summary();
        assert_eq!(summary.orders, u64::from(makes), "{fault}");
        assert_eq!(
            create(&simulator, order("CR1", "#ABCDEFGHIJKLM")).await.unwrap()["status"],
            0,
            "{fault}: only once"
        );
        assert_eq!(
            simulator.control().duplicates().len(),
            usize::from(makes),
            "{fault}: the ledger sees the second order"
        );
        simulator.stop().await;
    }
}

#[tokio::test]
async fn a_byte_order_mark_stands_before_any_answer() {
    let simulator = free().await;
    let control = simulator.control();
    let text = async || {
        let body = order("CR1", "").to_string();
        let target =
            flagship_target(simulator.account(), Call::CreateOrder.method(), &[], &body, now());
        send(&simulator.url_flagship(), "POST", &target, &body).await.unwrap().1
    };
    control.add_faults("all:bom=3x,createOrder:throttle=@2").unwrap();
    assert!(text().await.starts_with("\u{feff}{\"status\":0,"));
    assert!(text().await.starts_with("\u{feff}{\"status\":100,"));
    let answer = page(&simulator, Call::Outbounds, 0, 10, &json!({"src_order_no": "CR1"})).await;
    assert!(answer.as_str().unwrap().starts_with("\u{feff}{\"status\":0,"), "{answer}");
    assert!(text().await.starts_with("{\"status\":0,"));
    simulator.stop().await;
}

#[tokio::test]
async fn queries_leave_out_what_the_script_hides() {
    let simulator = free().await;
    let control = simulator.control();
    for status in [48, 50] {
        let seeding = Seeding {
            warehouse_no: Some("1001".to_owned()),
            status: Some(status),
            from: Some("2023-01-10 00:00:00".to_owned()),
            to: Some("2023-01-10 00:00:00".to_owned()),
            ..Seeding::of(1)
        };
        control.seed(Kind::Outbounds, &seeding).unwrap();
    }
    create(&simulator, order("CR1", "")).await.unwrap();
    let found = async |argument: Value| {
        ids(&page(&simulator, Call::Outbounds, 0, 10, &argument).await, "stockout_id").len()
    };
    let old = |status: &str| json!({"time_type": 3, "start_time": "2023-01-10 00:00:00", "end_time": "2023-01-10 00:00:00", "status": status});
    let new = |status: &str| json!({"src_order_no": "CR1", "status": status});
    for (fault, sees) in [
        // Old ones with and without statuses, the new one with and without.
        ("bom=0", [2, 2, 1, 1]),
        ("hide_warehouse(1001)=1", [0, 0, 0, 0]),
        ("hide_warehouse(1001,with_status)=1", [0, 2, 0, 1]),
        ("hide_warehouse(another)=1", [2, 2, 1, 1]),
        ("stale(10m)=1", [2, 2, 0, 0]),
        ("stale(2023-01-10 00:00:00,without_status)=1", [2, 2, 1, 0]),
        ("stale(2022-01-01 00:00:00)=1", [0, 0, 0, 0]),
    ] {
        control.clear_faults();
        control.add_faults(&format!("outbounds:{fault}")).unwrap();
        let seen = [
            found(old("48,50")).await,
            found(old("")).await,
            found(new("48,50")).await,
            found(new("")).await,
        ];
        assert_eq!(seen, sees, "{fault}");
    }
    control.clear_faults();
    control.add_faults("enterprise:hide_warehouse(1001,with_status)=1").unwrap();
    let number = control.orders(Some("CR1"))[0].order_no.clone();
    let shipped = Change { status: Some(110), ..Change::default() };
    control.modify(Kind::Outbounds, &number, &shipped).unwrap();
    let asked = async |status: &str| {
        let pairs = [("src_order_no", "CR1"), ("status", status)];
        enterprise(&simulator, &pairs[..if status.is_empty() { 1 } else { 2 }]).await["total_count"]
            .clone()
    };
    assert_eq!((asked("110").await, asked("").await), (json!(0), json!(1)));
    simulator.stop().await;
}

#[tokio::test]
async fn characters_of_four_bytes_make_the_database_fail() {
    let simulator = free().await;
    let failed = json!({"status": 4, "message": "数据库错误"});
    for text in ["😀", "𠮷"] {
        assert_eq!(create(&simulator, order("CR1", text)).await.unwrap(), failed);
        for field in ["unit_name", "position_no", "batch_no", "expire_date", "remark", "spec_no"] {
            let mut one = order("CR1", "");
            one[1][0][field] = json!(text);
            assert_eq!(create(&simulator, one).await.unwrap(), failed, "{field}");
        }
        let mut one = order("CR1", "");
        one[0]["logistics_code"] = json!(text);
        assert_eq!(create(&simulator, one).await.unwrap(), failed);
    }
    assert_eq!(simulator.control().summary().orders, 0);
    assert_eq!(create(&simulator, order("CR1", "退\u{ffff}")).await.unwrap()["status"], 0);
    simulator.stop().await;
}

#[tokio::test]
async fn an_applied_call_without_answer_is_held_until_the_client_gives_up() {
    let simulator = free().await;
    simulator.control().add_faults("createOrder:applied_timeout=1x").unwrap();
    let body = order("CR1", "#ABCDEFGHIJKLM").to_string();
    let target =
        flagship_target(simulator.account(), Call::CreateOrder.method(), &[], &body, now());
    let mut stream = connect(&simulator.url_flagship()).await;
    stream.write_all(request("POST", &target, &body).as_bytes()).await.unwrap();
    settled(&simulator, |counts| counts.applied == 1).await;
    assert_eq!(simulator.control().counters()["create_order"].applied_unanswered, 0, "still held");
    drop(stream);
    settled(&simulator, |counts| counts.applied_unanswered == 1).await;
    let log = simulator.control().requests(0, 10);
    assert!(log[0].applied && !log[0].answered);
    assert_eq!(log[0].end, "held");
    simulator.stop().await;
}

#[tokio::test]
async fn a_delayed_call_is_applied_although_the_connection_ended() {
    let simulator = free().await;
    simulator.control().add_faults("createOrder:delayed_apply(200ms)=1x").unwrap();
    let body = order("CR1", "#ABCDEFGHIJKLM").to_string();
    let target =
        flagship_target(simulator.account(), Call::CreateOrder.method(), &[], &body, now());
    let mut stream = connect(&simulator.url_flagship()).await;
    stream.write_all(request("POST", &target, &body).as_bytes()).await.unwrap();
    settled(&simulator, |counts| counts.received == 1).await;
    drop(stream);
    assert_eq!(simulator.control().summary().orders, 0);
    settled(&simulator, |counts| counts.applied == 1 && counts.applied_unanswered == 1).await;
    assert_eq!(simulator.control().summary().orders, 1);
    simulator.stop().await;
}

#[tokio::test]
async fn an_incomplete_request_is_executed_by_nobody() {
    let simulator = free().await;
    let body = order("CR1", "").to_string();
    let target =
        flagship_target(simulator.account(), Call::CreateOrder.method(), &[], &body, now());
    let mut stream = connect(&simulator.url_flagship()).await;
    let text = request("POST", &target, &body);
    stream.write_all(&text.as_bytes()[..text.len() - 1]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(simulator.control().counters()["create_order"].received, 0);
    simulator.stop().await;
}

#[tokio::test]
async fn late_orders_are_held_but_not_seen() {
    let simulator = free().await;
    let control = simulator.control();
    control.add_faults("createOrder:late(250ms)=1x").unwrap();
    let argument = json!({"src_order_no": "CR1"});
    create(&simulator, order("CR1", "#ABCDEFGHIJKLM")).await.unwrap();
    assert_eq!(page(&simulator, Call::Outbounds, 0, 10, &argument).await["data"]["total_count"], 0);
    assert_eq!((control.summary().orders, control.summary().not_visible_yet), (1, 1));
    timeout(Duration::from_secs(10), async {
        while page(&simulator, Call::Outbounds, 0, 10, &argument).await["data"]["total_count"] != 1
        {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    // A change that is not visible yet leaves the record as it was.
    let number = control.orders(Some("CR1"))[0].order_no.clone();
    let change = Change {
        remark: Some("new".to_owned()),
        visible_after_ms: Some(3_600_000),
        ..Change::default()
    };
    control.modify(Kind::Outbounds, &number, &change).unwrap();
    assert_eq!(
        page(&simulator, Call::Outbounds, 0, 10, &argument).await["data"]["order"][0]["remark"],
        "#ABCDEFGHIJKLM"
    );
    assert!(
        control
            .record(Kind::Outbounds, Edition::Flagship, &number)
            .unwrap()
            .contains(r#""remark":"new""#)
    );
    simulator.stop().await;
}

#[tokio::test]
async fn a_stripped_remark_does_not_fool_the_ledger() {
    let simulator = free().await;
    let control = simulator.control();
    control.add_faults("createOrder:strip_remark=1x,createOrder:rewrite_remark=1x").unwrap();
    create(&simulator, order("CR1", "#ABCDEFGHIJKLM one")).await.unwrap();
    create(&simulator, order("CR1", "#ABCDEFGHIJKLM one")).await.unwrap();
    create(&simulator, order("CR1", "no marker")).await.unwrap();
    let summary = control.summary();
    assert_eq!(
        (summary.orders, summary.distinct_markers, summary.duplicates, summary.without_marker),
        (3, 1, 1, 1)
    );
    let answer = page(&simulator, Call::Outbounds, 0, 10, &json!({"src_order_no": "CR1"})).await;
    let remarks: Vec<&str> = answer["data"]["order"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["remark"].as_str().unwrap())
        .collect();
    assert!(remarks.iter().filter(|remark| remark.starts_with('#')).count() <= 1, "{remarks:?}");
    simulator.stop().await;
}

#[tokio::test]
async fn a_remark_is_cut_or_prefixed_as_the_script_says() {
    let simulator = free().await;
    let rules = "createOrder:cut_remark(14)=1x,createOrder:prefix_remark=@2";
    simulator.control().add_faults(rules).unwrap();
    for _ in 0..2 {
        create(&simulator, order("CR1", "#ABCDEFGHIJKLM one")).await.unwrap();
    }
    let answer = page(&simulator, Call::Outbounds, 0, 10, &json!({"src_order_no": "CR1"})).await;
    let remarks: Vec<&Value> =
        answer["data"]["order"].as_array().unwrap().iter().map(|row| &row["remark"]).collect();
    assert_eq!(remarks, ["#ABCDEFGHIJKLM", "[接口创建出库单]#ABCDEFGHIJKLM one"]);
    simulator.stop().await;
}

#[tokio::test]
async fn outages_close_or_refuse_and_end() {
    let simulator = free().await;
    let control = simulator.control();
    control.adjust(&Adjust { outage: Some(Outage::Close), ..Adjust::default() });
    let gone = async || {
        timeout(Duration::from_secs(10), async {
            let host = simulator
                .url_flagship()
                .trim_start_matches("http://")
                .split('/')
                .next()
                .unwrap()
                .to_owned();
            match TcpStream::connect(&host).await {
                Err(error) => error.kind(),
                Ok(mut stream) => {
                    let mut byte = [0; 1];
                    // Either the write or the read meets the reset.
                    let _ = stream.write_all(b"POST / HTTP/1.1\r\n").await;
                    stream
                        .read(&mut byte)
                        .await
                        .map_or_else(|error| error.kind(), |_| std::io::ErrorKind::UnexpectedEof)
                }
            }
        })
        .await
        .unwrap()
    };
    assert_eq!(gone().await, std::io::ErrorKind::ConnectionReset);
    control.adjust(&Adjust { outage: Some(Outage::Refuse), ..Adjust::default() });
    timeout(Duration::from_secs(10), async {
        while gone().await != std::io::ErrorKind::ConnectionRefused {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let (head, summary) = send(&simulator.url_admin(), "GET", "/admin/summary", "").await.unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200") && summary.contains("\"orders\":0"),
        "the admin API answers during an outage"
    );
    control.adjust(&Adjust { outage: Some(Outage::None), ..Adjust::default() });
    timeout(Duration::from_secs(10), async {
        let host = simulator
            .url_flagship()
            .trim_start_matches("http://")
            .split('/')
            .next()
            .unwrap()
            .to_owned();
        while TcpStream::connect(&host).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(create(&simulator, order("CR1", "")).await.unwrap()["status"], 0);
    simulator.stop().await;
}

#[tokio::test]
async fn the_admin_api_does_what_the_handle_does() {
    let simulator = free().await;
    let url = simulator.url_admin();
    let ask = async |method: &str, target: &str, body: Value| -> (String, Value) {
        let (head, text) = send(&url, method, target, &body.to_string()).await.unwrap();
        let status = head.split(' ').nth(1).unwrap().to_owned();
        // axum streams nothing here: lengths are declared, so the text is whole.
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    };
    let (status, seeded) =
        ask("POST", "/admin/seed/purchase_returns", json!({"count": 5, "status": 40})).await;
    assert_eq!((status.as_str(), seeded["numbers"].as_array().unwrap().len()), ("200", 5));
    let number = seeded["numbers"][0].as_str().unwrap();
    let (_, changed) = ask(
        "POST",
        &format!("/admin/records/purchase_returns/{number}"),
        json!({"status": 60, "remark": "完成"}),
    )
    .await;
    assert_eq!((&changed["status"], &changed["remark"]), (&json!(60), &json!("完成")));
    let (_, all) = ask("GET", "/admin/records/purchase_returns?limit=3", json!({})).await;
    assert_eq!(all.as_array().unwrap().len(), 3);
    let (_, rules) =
        ask("POST", "/admin/faults", json!({"rules": "createOrder:throttle=3x"})).await;
    assert_eq!(rules, json!([{"rule": "createOrder:throttle=3x", "struck": 0, "left": 3}]));
    let (status, error) =
        ask("POST", "/admin/faults", json!({"rules": "createOrder:nonsense=1", "replace": true}))
            .await;
    assert_eq!(status, "400");
    assert!(error["error"].as_str().unwrap().contains("nonsense"));
    assert_eq!(
        ask("GET", "/admin/faults", json!({})).await.1.as_array().unwrap().len(),
        1,
        "a mistake disarms nothing"
    );
    assert_eq!(ask("DELETE", "/admin/faults", json!({})).await.1, json!([]));
    create(&simulator, order("CR9", "#ABCDEFGHIJKLM")).await.unwrap();
    create(&simulator, order("CR9", "#ABCDEFGHIJKLM")).await.unwrap();
    let (_, orders) = ask("GET", "/admin/orders?return_no=CR9", json!({})).await;
    assert_eq!(
        (orders.as_array().unwrap().len(), &orders[0]["marker"]),
        (2, &json!("#ABCDEFGHIJKLM"))
    );
    let (_, duplicates) = ask("GET", "/admin/duplicates", json!({})).await;
    assert_eq!(duplicates[0]["orders"].as_array().unwrap().len(), 2);
    let (_, summary) = ask("GET", "/admin/summary", json!({})).await;
    assert_eq!(
        (&summary["orders"], &summary["duplicates"], &summary["calls"]["create_order"]["answered"]),
        (&json!(2), &json!(1), &json!(2))
    );
    assert_eq!(
        ask("POST", "/admin/settings", json!({"latency_ms": 1, "page_order": "shuffled"})).await.0,
        "200"
    );
    assert_eq!(ask("POST", "/admin/settings", json!({"latenzy_ms": 1})).await.0, "400");
    assert_eq!(ask("POST", "/admin/churn", json!({"count": 2})).await.0, "200");
    assert_eq!(ask("GET", "/admin/records/outbounds/none", json!({})).await.0, "404");
    assert_eq!(
        ask("GET", "/admin/requests?after=1", json!({})).await.1.as_array().unwrap().len(),
        1
    );
    simulator.stop().await;
}

#[tokio::test]
async fn the_same_seed_makes_the_same_records() {
    let make = async |seed| {
        let simulator = started(SimulatorConfig { seed, ..SimulatorConfig::default() }).await;
        let seeding = Seeding { to: Some("2023-01-10 00:00:00".to_owned()), ..Seeding::of(50) };
        simulator.control().seed(Kind::PurchaseReturns, &seeding).unwrap();
        simulator.control().seed(Kind::Outbounds, &seeding).unwrap();
        let mut records =
            simulator.control().records(Kind::PurchaseReturns, Edition::Flagship, 0, 100);
        records.extend(simulator.control().records(Kind::Outbounds, Edition::Enterprise, 0, 100));
        simulator.stop().await;
        records
    };
    assert_eq!(make(1).await, make(1).await);
    assert_ne!(make(1).await, make(2).await);
}

#[tokio::test]
async fn the_background_modifies_and_stamps() {
    let simulator = started(SimulatorConfig::default()).await;
    let control = simulator.control();
    let seeding = Seeding { to: Some("2023-01-10 00:00:00".to_owned()), ..Seeding::of(20) };
    control.seed(Kind::Outbounds, &seeding).unwrap();
    control.adjust(&Adjust { modifications_per_second: Some(1000.0), ..Adjust::default() });
    timeout(Duration::from_secs(10), async {
        while page(&simulator, Call::Outbounds, 0, 1, &outbound_window(1)).await["data"]["total_count"] != 20 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let record: Value =
        serde_json::from_str(&control.records(Kind::Outbounds, Edition::Enterprise, 0, 1)[0])
            .unwrap();
    assert!(parse_beijing(record["modified"].as_str().unwrap()).unwrap() > now() - 60);
    simulator.stop().await;
}

/// So many records of one second, and the window of that second for both editions.
async fn one_second(config: SimulatorConfig, count: u32) -> (Simulator, Value) {
    let simulator = started(config).await;
    let second = Some("2023-01-10 00:00:00".to_owned());
    let seeding =
        Seeding { status: Some(110), from: second.clone(), to: second, ..Seeding::of(count) };
    simulator.control().seed(Kind::Outbounds, &seeding).unwrap();
    (simulator, of_second())
}

fn of_second() -> Value {
    json!({"time_type": 3, "start_time": "2023-01-10 00:00:00", "end_time": "2023-01-10 00:00:00"})
}

/// Ids and count of a page of twenty.
async fn twenty(simulator: &Simulator, page_no: usize, argument: &Value) -> (Vec<u64>, u64) {
    let answer = page(simulator, Call::Outbounds, page_no, 20, argument).await;
    (ids(&answer, "stockout_id"), answer["data"]["total_count"].as_u64().unwrap())
}

/// The same of the enterprise edition; no count beyond its first page.
async fn twenty_of_enterprise(simulator: &Simulator, page_no: usize) -> (Vec<u64>, Option<u64>) {
    let page_no = page_no.to_string();
    let answer = enterprise(
        simulator,
        &[
            ("start_time", "2023-01-10 00:00:00"),
            ("end_time", "2023-01-10 00:00:00"),
            ("status", "110"),
            ("page_no", &page_no),
            ("page_size", "20"),
        ],
    )
    .await;
    let number = |value: &Value| value.as_str().unwrap().parse().unwrap();
    let rows = answer["stockout_list"].as_array().unwrap();
    let ids = rows.iter().map(|row| number(&row["stockout_id"])).collect();
    (ids, answer["total_count"].as_u64())
}

#[tokio::test]
async fn pages_withhold_rows_as_the_script_says() {
    let (simulator, second) = one_second(SimulatorConfig::default(), 45).await;
    let control = simulator.control();
    let distinct = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
    let mut good = Vec::new();
    for page_no in 0..3 {
        good.push(twenty(&simulator, page_no, &second).await.0);
    }
    // No page of a window: none of them strikes.
    let by_number = json!({"src_order_no": "another"});
    for target in ["outbounds", "enterprise"] {
        let ask = async |page_no: usize| match target {
            "outbounds" => twenty(&simulator, page_no, &second).await.0,
            _ => twenty_of_enterprise(&simulator, page_no).await.0,
        };
        control.add_faults(&format!("{target}:withhold=1x,{target}:withhold_double=1x")).unwrap();
        assert!(twenty(&simulator, 0, &by_number).await.0.is_empty());
        let less = ask(1).await;
        assert_eq!((less.len(), distinct(&less).len()), (19, 19), "{target}: {less:?}");
        assert!(distinct(&less).is_subset(&distinct(&good[1])));
        let doubled = ask(1).await;
        assert_eq!((doubled.len(), distinct(&doubled).len()), (20, 19), "{target}: {doubled:?}");
        assert_eq!(ask(1).await, good[1]);
        control.add_faults(&format!("{target}:short_page(7)=1x")).unwrap();
        assert_eq!(ask(2).await, good[2], "the last page is short by itself");
        assert_eq!(ask(1).await, good[1][..7]);
        control.add_faults(&format!("{target}:neighbour_page=3x")).unwrap();
        assert_eq!(ask(0).await, good[1]);
        assert_eq!(ask(1).await, good[2]);
        assert_eq!(ask(2).await, good[1]);
        assert_eq!(ask(0).await, good[0]);
    }
    let faults =
        json!({"withhold": 2, "withhold_double": 2, "short_page(7)": 2, "neighbour_page": 6});
    assert_eq!(json!(control.summary().faults), faults);
    simulator.stop().await;
}

#[tokio::test]
async fn counts_are_off_where_there_is_one() {
    let (simulator, second) = one_second(SimulatorConfig::default(), 41).await;
    let control = simulator.control();
    control.add_faults("query:count_off(1)=2x").unwrap();
    assert_eq!(twenty(&simulator, 1, &second).await.1, 42);
    assert_eq!(twenty_of_enterprise(&simulator, 1).await.1, None);
    assert_eq!(twenty_of_enterprise(&simulator, 0).await.1, Some(42));
    assert_eq!(twenty_of_enterprise(&simulator, 0).await.1, Some(41));
    // The third page would go, and with it its record.
    control.add_faults("query:count_off(-1)=1").unwrap();
    for _ in 0..20 {
        assert_eq!(
            twenty(&simulator, 0, &second).await,
            (twenty(&simulator, 0, &second).await.0, 41)
        );
    }
    simulator.stop().await;
}

#[tokio::test]
async fn no_read_has_two_low_counts_or_one_beside_a_withheld_row() {
    let (simulator, _) = one_second(
        SimulatorConfig {
            page_order: PageOrder::ModifiedAsc,
            shuffle_equal: true,
            ..SimulatorConfig::default()
        },
        45,
    )
    .await;
    let control = simulator.control();
    control
        .add_faults("query:count_off(-1)=1,query:withhold=0.3,query:neighbour_page=0.3")
        .unwrap();
    let (mut low, mut withheld) = (0, 0);
    for second in 0..40 {
        let mut window = of_second();
        window["end_time"] = json!(format!("2023-01-10 00:00:{second:02}"));
        let mut answers = Vec::new();
        for _ in 0..12 {
            answers.push(twenty(&simulator, 0, &window).await);
        }
        let lows: Vec<usize> = (0..12).filter(|at| answers[*at].1 == 44).collect();
        let steady = answers.iter().all(|(ids, _)| *ids == answers[0].0 && ids.len() == 20);
        assert!(lows.is_empty() || steady, "second {second}: {answers:?}");
        assert!(lows.windows(2).all(|pair| pair[1] - pair[0] > 4), "{lows:?}");
        assert!(answers.iter().all(|(_, count)| [44, 45].contains(count)));
        (low, withheld) = (low + lows.len(), withheld + usize::from(!steady));
    }
    assert!(low > 10 && withheld > 10, "{low} low counts, {withheld} windows with rows withheld");
    assert_eq!(control.summary().faults["count_off(-1)"], low as u64);
    // Some read may still be under way: forgetting the script changes nothing about its rows.
    control.clear_faults();
    let mut shuffled = 0;
    for second in 0..40 {
        let mut window = of_second();
        window["end_time"] = json!(format!("2023-01-10 00:00:{second:02}"));
        let (first, _) = twenty(&simulator, 0, &window).await;
        shuffled += usize::from(first != twenty(&simulator, 0, &window).await.0);
    }
    assert_eq!(shuffled, withheld);
    simulator.stop().await;
}

#[tokio::test]
async fn empty_answers_come_in_odd_forms() {
    let (simulator, second) = one_second(SimulatorConfig::default(), 3).await;
    let control = simulator.control();
    let empty = json!({"time_type": 3, "start_time": "2023-01-09 00:00:00", "end_time": "2023-01-09 00:00:00"});
    for (form, flagship, enterprise) in [
        ("data_array", r#"{"status":0,"data":[]}"#, ""),
        ("data_object", r#"{"status":0,"data":{}}"#, ""),
        ("data_null", r#"{"status":0,"data":null}"#, ""),
        ("data_absent", r#"{"status":0}"#, ""),
        (
            "order_object",
            r#"{"status":0,"data":{"total_count":0,"order":{}}}"#,
            r#","total_count":0,"stockout_list":{}"#,
        ),
        (
            "order_null",
            r#"{"status":0,"data":{"total_count":0,"order":null}}"#,
            r#","total_count":0,"stockout_list":null"#,
        ),
        ("order_absent", r#"{"status":0,"data":{"total_count":0}}"#, r#","total_count":0"#),
    ] {
        control.clear_faults();
        control.add_faults(&format!("query:empty_form({form})=1")).unwrap();
        assert_eq!(
            page(&simulator, Call::Outbounds, 0, 10, &second).await["data"]["total_count"],
            3
        );
        let answer = page(&simulator, Call::Outbounds, 0, 10, &empty).await;
        assert_eq!(answer, serde_json::from_str::<Value>(flagship).unwrap(), "{form}");
        let pairs = [
            ("start_time", "2023-01-09 00:00:00"),
            ("end_time", "2023-01-09 00:00:00"),
            ("status", "50"),
        ];
        let answer = super::tests::enterprise(&simulator, &pairs).await;
        let wanted = format!(r#"{{"code":0,"message":"succeed"{enterprise}}}"#);
        assert_eq!(answer, serde_json::from_str::<Value>(&wanted).unwrap(), "{form}");
    }
    simulator.stop().await;
}

#[tokio::test]
async fn one_record_of_a_page_is_broken() {
    let (simulator, second) = one_second(SimulatorConfig::default(), 3).await;
    let control = simulator.control();
    let number = |at: usize| -> String {
        let record = control.records(Kind::Outbounds, Edition::Flagship, at, 1).remove(0);
        let record: Value = serde_json::from_str(&record).unwrap();
        record["order_no"].as_str().unwrap().to_owned()
    };
    let last = number(2);
    let body = json!([second]).to_string();
    // As it is sent; a cut character reads as U+FFFD.
    let text = async || {
        let paging = [("page_no", "0"), ("page_size", "10")];
        let method = Call::Outbounds.method();
        let target = flagship_target(simulator.account(), method, &paging, &body, now());
        send(&simulator.url_flagship(), "POST", &target, &body).await.unwrap().1
    };
    let good = text().await;
    for (fault, broken) in [("broken_character", "\u{fffd}"), ("raw_newline", "\n")] {
        control.add_faults(&format!("query:{fault}({last})=1x,query:{fault}=@2")).unwrap();
        let answer = text().await;
        let (before, after) = answer.split_once(broken).expect("one place");
        assert!(before.ends_with("\"remark\":\"") && !after.contains(broken), "{answer}");
        assert!(before.contains(&last) && before.contains(&number(1)), "{answer}");
        assert_eq!(text().await.matches(broken).count(), 1);
        assert_eq!(text().await, good, "spent");
    }
    control.add_faults("query:raw_newline(another)=1").unwrap();
    assert_eq!(text().await, good);
    simulator.stop().await;
}

#[tokio::test]
async fn a_page_cap_is_silent() {
    let config = SimulatorConfig { page_cap: Some(8), ..SimulatorConfig::default() };
    let (simulator, second) = one_second(config, 21).await;
    let mut seen = BTreeSet::new();
    for (page_no, rows) in [(0, 8), (1, 8), (2, 5), (3, 0)] {
        let (ids, count) = twenty(&simulator, page_no, &second).await;
        assert_eq!((ids.len(), count), (rows, 21));
        seen.extend(ids);
    }
    assert_eq!(seen.len(), 21);
    simulator.control().adjust(&Adjust { page_cap: Some(0), ..Adjust::default() });
    assert_eq!(twenty(&simulator, 0, &second).await.0.len(), 20);
    simulator.stop().await;
}

#[tokio::test]
async fn equal_rows_come_in_another_order_on_every_query() {
    let (simulator, second) = one_second(SimulatorConfig::default(), 45).await;
    let control = simulator.control();
    let shuffle = |page_order| {
        control.adjust(&Adjust {
            shuffle_equal: Some(true),
            page_order: Some(page_order),
            ..Adjust::default()
        });
    };
    shuffle(PageOrder::IdAsc);
    let steady = twenty(&simulator, 0, &second).await;
    assert_eq!(twenty(&simulator, 0, &second).await, steady, "ids are never equal");
    for order in [PageOrder::ModifiedAsc, PageOrder::ModifiedDesc] {
        shuffle(order);
        let first = twenty(&simulator, 0, &second).await.0;
        assert_ne!(twenty(&simulator, 0, &second).await.0, first);
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 20);
    }
    // Where every record has a second of its own there is one order only.
    control.seed(Kind::PurchaseReturns, &Seeding::of(95)).unwrap();
    let one = page(&simulator, Call::PurchaseReturns, 1, 20, &window(30)).await;
    assert_eq!(page(&simulator, Call::PurchaseReturns, 1, 20, &window(30)).await, one);
    simulator.stop().await;
}

#[tokio::test]
async fn rows_without_permission_are_counted_and_not_shown() {
    let (simulator, second) = one_second(SimulatorConfig::default(), 45).await;
    let control = simulator.control();
    let good = twenty(&simulator, 0, &second).await.0;
    let adjust = |warehouses: &[&str], after: bool| {
        control.adjust(&Adjust {
            unpermitted_warehouses: Some(warehouses.iter().map(|no| (*no).to_owned()).collect()),
            unpermitted_after_limit: Some(after),
            ..Adjust::default()
        });
    };
    let rows = async || {
        let mut rows = Vec::new();
        for page_no in 0..3 {
            let (ids, count) = twenty(&simulator, page_no, &second).await;
            assert_eq!(count, 45);
            rows.push(ids);
        }
        rows
    };
    adjust(&["1001"], false);
    let before = rows().await;
    let shown: usize = before.iter().map(Vec::len).sum();
    assert!(shown < 45 && before[0].len() == 20, "{before:?}");
    adjust(&["1001"], true);
    let after = rows().await;
    assert_eq!(after.concat(), before.concat(), "the same rows on other pages");
    assert!(after[0].len() < 20 && after[0].iter().all(|id| good.contains(id)), "{after:?}");
    adjust(&[], false);
    assert_eq!(rows().await[0], good);
    simulator.stop().await;
}

#[tokio::test]
async fn the_background_leaves_resting_records_alone() {
    let simulator = started(SimulatorConfig::default()).await;
    let control = simulator.control();
    let old = Some("2023-01-10 00:00:00".to_owned());
    control.seed(Kind::PurchaseReturns, &Seeding { to: old, ..Seeding::of(100) }).unwrap();
    let rest = |share| {
        control.adjust(&Adjust { resting_records: Some(share), ..Adjust::default() });
        control.churn(1_000);
        let records = control.records(Kind::PurchaseReturns, Edition::Flagship, 0, 100);
        let unchanged = |record: &&String| record.contains("\"note_count\":0,");
        (records.iter().filter(unchanged).count(), control.summary().modifications)
    };
    assert_eq!(rest(1.0), (100, 0), "nothing moves");
    let (resting, modified) = rest(0.5);
    assert!((30..70).contains(&resting) && modified == 1_000, "{resting}");
    assert_eq!(rest(0.5), (resting, 2_000), "the same ones");
    assert_eq!(rest(0.0).0, 0);
    simulator.stop().await;
}

#[tokio::test]
async fn the_background_makes_records_and_shows_some_later() {
    let simulator = started(SimulatorConfig::default()).await;
    let control = simulator.control();
    let old = Some("2023-01-10 00:00:00".to_owned());
    let seeding = Seeding { to: old, edition: Edition::Enterprise, ..Seeding::of(100) };
    control.seed(Kind::Outbounds, &seeding).unwrap();
    control.adjust(&Adjust {
        new_records: Some(0.5),
        late_records: Some(0.5),
        late_records_ms: Some(3_600_000),
        ..Adjust::default()
    });
    control.churn(200);
    let summary = control.summary();
    assert_eq!(summary.modifications, 200);
    assert!((170..230).contains(&summary.outbounds), "{summary:?}");
    assert!((70..130).contains(&summary.not_visible_yet), "{summary:?}");
    // The new ones run through the statuses of the old ones' edition.
    for record in control.records(Kind::Outbounds, Edition::Enterprise, 100, 100) {
        let record: Value = serde_json::from_str(&record).unwrap();
        let status = record["status"].as_str().unwrap();
        assert!(["50", "55", "95", "110", "5"].contains(&status), "{record}");
    }
    simulator.stop().await;
}
