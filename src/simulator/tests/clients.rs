//! Requests as public clients send them, byte for byte where the byte matters, and the answers the
//! vendor's ERP gives to them (`docs/erp.md`). Each is signed as its client signs.

use md5::{Digest as _, Md5};

use super::*;

fn md5(text: &str) -> String {
    Md5::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As PHP's `urlencode` and Java's `URLEncoder` write a value.
fn url_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                char::from(byte).to_string()
            }
            b' ' => "+".to_owned(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn query_string(pairs: &[(&str, String)]) -> String {
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{name}={}", url_encoded(value))).collect();
    pairs.join("&")
}

/// The vendor's PHP and Java clients, gwdt and others: public parameters in the query string in the
/// order in which they are set, the body as the client's JSON library wrote it.
async fn of_flagship(simulator: &Simulator, call: Call, body: &str) -> Value {
    let account = simulator.account();
    let mut pairs = vec![
        ("sid", account.flagship_sid.clone()),
        ("key", account.flagship_key.clone()),
        ("salt", account.flagship_salt.clone()),
        ("method", call.method().to_owned()),
        ("timestamp", (now() - FLAGSHIP_EPOCH).to_string()),
        ("v", "1.0".to_owned()),
    ];
    if call != Call::CreateOrder {
        let paging = [("page_size", "50"), ("page_no", "0"), ("calc_total", "1")];
        pairs.extend(paging.map(|(name, value)| (name, value.to_owned())));
    }
    let mut signed = pairs.clone();
    signed.push(("body", body.to_owned()));
    signed.sort();
    let text: String = signed.iter().map(|(name, value)| format!("{name}{value}")).collect();
    let secret = &account.flagship_secret;
    pairs.push(("sign", md5(&format!("{secret}{text}{secret}"))));
    let target = format!("/openapi?{}", query_string(&pairs));
    let (_, text) = send(&simulator.url_flagship(), "POST", &target, body).await.unwrap();
    serde_json::from_str(&text).unwrap()
}

/// How a client measures the values it signs.
#[derive(Clone, Copy)]
enum Lengths {
    /// PHP's `iconv_strlen`, Java's `String.length`.
    Characters,
    /// Go's `len`, PHP's `strlen`: the ERP refuses what is not ASCII.
    Bytes,
}

async fn of_enterprise(simulator: &Simulator, lengths: Lengths, more: &[(&str, &str)]) -> Value {
    let account = simulator.account();
    let mut pairs = vec![
        ("sid", account.enterprise_sid.clone()),
        ("appkey", account.enterprise_appkey.clone()),
        ("timestamp", now().to_string()),
    ];
    pairs.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    pairs.sort();
    let length = |text: &str| match lengths {
        Lengths::Characters => text.chars().count(),
        Lengths::Bytes => text.len(),
    };
    let signed: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{:02}-{name}:{:04}-{value}", length(name), length(value)))
        .collect();
    pairs.push(("sign", md5(&(signed.join(";") + &account.enterprise_appsecret))));
    let target = "/openapi2/stockout_order_query_return.php";
    let body = query_string(&pairs);
    let (_, text) = send(&simulator.url_enterprise(), "POST", target, &body).await.unwrap();
    serde_json::from_str(&text).unwrap()
}

async fn erp() -> Simulator {
    let simulator = started(SimulatorConfig::default()).await;
    let seeding =
        Seeding { return_no: Some("CT/退<1>".to_owned()), status: Some(40), ..Seeding::of(1) };
    simulator.control().seed(Kind::PurchaseReturns, &seeding).unwrap();
    simulator
}

#[tokio::test]
async fn flagship_clients_in_php_go_and_java_are_answered_as_by_the_vendor() {
    let simulator = erp().await;
    let created = [
        // json_encode escapes slashes and everything beyond ASCII; numbers stay numbers.
        r#"[{"return_no":"CT\/\u9000<1>","warehouse_no":"1001","create_mode":0,"remark":"\u5916\u7bb1"},[{"spec_no":"SKU-00001","num":2}]]"#,
        // encoding/json escapes < and >, and writes what is empty.
        r#"[{"return_no":"CT/退\u003c1\u003e","warehouse_no":"1001","logistics_code":"","create_mode":"0","remark":""},[{"spec_no":"SKU-00001","num":"2","defect":false}]]"#,
        // Gson as well; one SKU in two batches, approved.
        r#"[{"return_no":"CT/退\u003c1\u003e","warehouse_no":"1001","logistics_code":"SF","create_mode":2},[{"spec_no":"SKU-00001","num":1.5,"batch_no":"A"},{"spec_no":"SKU-00001","num":1,"batch_no":"B","expire_date":""}]]"#,
    ];
    for body in created {
        let answer = of_flagship(&simulator, Call::CreateOrder, body).await;
        assert_eq!(
            (&answer["status"], &answer["data"]["status"]),
            (&json!(0), &json!(0)),
            "{answer}"
        );
    }
    let orders = simulator.control().orders(None);
    let statuses: Vec<i64> = orders
        .iter()
        .map(|order| {
            let record =
                simulator.control().record(Kind::Outbounds, Edition::Flagship, &order.order_no);
            let record: Value = serde_json::from_str(&record.unwrap()).unwrap();
            assert_eq!(record["operator_name"], "", "made by API");
            record["status"].as_i64().unwrap()
        })
        .collect();
    assert_eq!(statuses, [48, 48, 65]);

    let refused = [
        (
            r#"[{"return_no":"CT/退<1>","warehouse_no":"1001","remark":"\ud83d\ude00"},[{"spec_no":"SKU-00001","num":1}]]"#,
            4,
            "数据库错误",
        ),
        (
            r#"[{"return_no":"CT/退<1>","warehouse_no":"1001","logistics_code":"MR001"},[{"spec_no":"SKU-00001","num":1}]]"#,
            100,
            "不存在物流编码为 MR001 的物流公司或业务类型错误!",
        ),
        (
            r#"[{"return_no":"CT/退<1>","warehouse_no":""},[{"spec_no":"SKU-00001","num":1}]]"#,
            100,
            "仓库编号不可为空",
        ),
        (
            r#"[{"return_no":null,"warehouse_no":"1001"},[{"spec_no":"SKU-00001","num":1}]]"#,
            1,
            "return_no must not be null",
        ),
        (
            r#"[{"return_no":"CT/退<1>","warehouse_no":"1001","memo":"x"},[{"spec_no":"SKU-00001","num":1}]]"#,
            2,
            "memo字段不存在",
        ),
    ];
    for (body, status, message) in refused {
        let answer = of_flagship(&simulator, Call::CreateOrder, body).await;
        assert_eq!(answer, json!({"status": status, "message": message}), "{body}");
    }

    let (from, to) = (beijing(now() - 86_400), beijing(now()));
    let ask = async |argument: String| {
        of_flagship(&simulator, Call::Outbounds, &format!("[{argument}]")).await
    };
    for kind in [r#""3""#, "3"] {
        for status in [r#""48,65""#, "48", r#""48""#] {
            let asked = format!(
                r#"{{"start_time":"{from}","end_time":"{to}","time_type":{kind},"status":{status}}}"#
            );
            let answer = ask(asked).await;
            let count = if status == r#""48,65""# { 3 } else { 2 };
            assert_eq!(answer["data"]["total_count"], count, "{kind} {status}: {answer}");
        }
    }
    let days = [&from[..10], &from.replace('-', "/")];
    for day in days {
        let answer = ask(format!(r#"{{"start_time":"{day}","end_time":"{to}"}}"#)).await;
        assert_eq!(answer, json!({"status": 100, "message": "日期格式不合法"}), "{day}");
    }
    let answer = ask(r#"{"start_time":"a","time_type":"x","src_order_no":""}"#.to_owned()).await;
    assert_eq!(answer["status"], 100, "{answer}");
    let argument = format!(r#"[{{"start_time":"{from}","end_time":"{to}","status":"x"}}]"#);
    let answer = of_flagship(&simulator, Call::PurchaseReturns, &argument).await;
    assert_eq!(answer, json!({"status": 1, "message": "For input string: \"x\""}));
    simulator.stop().await;
}

#[tokio::test]
async fn enterprise_clients_that_count_characters_and_bytes_are_answered_as_by_the_vendor() {
    let simulator = erp().await;
    let seeding = Seeding {
        edition: Edition::Enterprise,
        warehouse_no: Some("华东 +%& 😀".to_owned()),
        ..Seeding::of(40)
    };
    simulator.control().seed(Kind::Outbounds, &seeding).unwrap();
    let (from, to) = (beijing(now() - 7 * 86_400), beijing(now()));
    let window = [("start_time", from.as_str()), ("end_time", to.as_str())];
    let ask = async |lengths, more: &[(&str, &str)]| {
        of_enterprise(&simulator, lengths, &[&window, more].concat()).await
    };
    let mut seen = 0;
    for status in ["5", "50", "55", "95", "110"] {
        let warehouse = ("warehouse_no", "华东 +%& 😀");
        let answer = ask(Lengths::Characters, &[("status", status), warehouse]).await;
        assert_eq!(answer["code"], 0, "{answer}");
        seen += answer["total_count"].as_u64().unwrap();
    }
    assert_eq!(seen, 40, "every order is in one of the statuses");
    let second = ask(Lengths::Characters, &[("status", "110"), ("page_no", "1")]).await;
    assert_eq!((&second["code"], second.get("total_count")), (&json!(0), None), "{second}");
    // A client that counts bytes is right as long as all is ASCII.
    assert_eq!(ask(Lengths::Bytes, &[("status", "110")]).await["code"], 0);
    let wrong = ask(Lengths::Bytes, &[("status", "110"), ("warehouse_no", "华东")]).await;
    assert_eq!(wrong, json!({"code": 2100, "message": "签名验证失败"}));
    for (more, code) in
        [([("status", "95,110")], 9999), ([("page_size", "40")], 9999), ([("status", "x")], 9999)]
    {
        assert_eq!(ask(Lengths::Characters, &more).await["code"], code, "{more:?}");
    }
    let long = beijing(now() - 31 * 86_400);
    let answer =
        of_enterprise(&simulator, Lengths::Characters, &[("start_time", &long), ("end_time", &to)])
            .await;
    assert_eq!(answer["code"], 2104, "{answer}");
    simulator.stop().await;
}
