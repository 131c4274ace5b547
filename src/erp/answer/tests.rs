use super::*;

fn reply(body: &str) -> Reply {
    Reply { status: 200, date: None, body: Bytes::copy_from_slice(body.as_bytes()) }
}

fn context() -> Context<'static> {
    Context { signature: "00f3e310f4d39b63fbfa13ef27f51254", skew: None, rejected_texts: &[] }
}

fn create(body: &str) -> Answer {
    created(&reply(body), &context()).outcome
}

fn outer(code: i64, text: &str) -> String {
    serde_json::json!({ "status": code, "message": text }).to_string()
}

fn inner(code: i64, text: &str) -> String {
    serde_json::json!({ "status": 0, "data": { "status": code, "message": text } }).to_string()
}

fn word(answer: &Answer) -> &'static str {
    match answer {
        Answer::Created { .. } => "created",
        Answer::Rejected(refusal) if refusal.unapproved => "unapproved",
        Answer::Rejected(_) => "rejected",
        Answer::Unlisted { layer: Layer::Outer, .. } => "unlisted",
        Answer::Unlisted { layer: Layer::Data, .. } => "unlisted inside",
        Answer::ProbablyCreated(_) => "probably created",
        Answer::NotExecuted(NotExecuted::Throttled { .. }) => "throttled",
        Answer::NotExecuted(NotExecuted::Unreachable { .. } | NotExecuted::Withheld) => "not sent",
        Answer::Unknown { .. } => "unknown",
        Answer::Misconfigured(_) => "misconfigured",
    }
}

fn chinese(char: char) -> bool {
    ('\u{4e00}'..='\u{9fff}').contains(&char)
}

fn explained(answer: &Answer) -> bool {
    match answer {
        Answer::Rejected(refusal)
        | Answer::ProbablyCreated(refusal)
        | Answer::Misconfigured(refusal) => {
            let languages =
                |both: &Explanation| both.en().is_ascii() && both.zh().contains(chinese);
            refusal.explanation.as_ref().is_some_and(languages)
        }
        Answer::Created { .. }
        | Answer::NotExecuted(_)
        | Answer::Unlisted { .. }
        | Answer::Unknown { .. } => true,
    }
}

/// Every flagship row of the table: code, a text as the ERP writes it, what a `createOrder` comes
/// to.
const TABLE: &[(i64, &str, &str)] = &[
    (100, "超过每分钟最大调用频率限制,请稍后重试", "throttled"),
    (100, "超过每分钟最大调用频率限制，请稍后重试", "throttled"),
    (100, "超过每分钟最大并发次数限制，请稍后重试", "throttled"),
    (1, "sid is not exists", "misconfigured"),
    (1, "签名验证失败", "misconfigured"),
    (1, "app auth fail", "misconfigured"),
    (1, "wrong number of arguments", "rejected"),
    (1, "argument type mismatch", "rejected"),
    (1, "参数个数错误", "rejected"),
    (3, "", "misconfigured"),
    (6, "", "misconfigured"),
    (8, "", "misconfigured"),
    (7, "timestamp expired", "misconfigured"),
    (4, "数据库错误", "unknown"),
    (5, "其他错误", "unknown"),
    (99, "其他错误", "unknown"),
    (100, "权限不足", "misconfigured"),
    (100, "无仓库访问权限", "rejected"),
    (100, "采购退货单不存在", "rejected"),
    (100, "出库单对应的采购退换单状态错误", "unapproved"),
    (100, "仓库编号为 wdtapi3-test11 的仓库不存在!", "rejected"),
    (100, "货品列表中货品不存在或者货品重复", "rejected"),
    (100, "货品列表中有相同商家编码daba1", "rejected"),
    (100, "货品 daba1 重复", "rejected"),
    (100, "批次 B1 不存在或已停用", "rejected"),
    (100, "非销售出、入库单批次、有效期必传", "rejected"),
    (100, "数量不合法", "rejected"),
    (100, "warehouse_no不能为空", "rejected"),
    (100, "Data truncation: Data too long for column 'remark' at row 1", "rejected"),
    (100, "参数中必须包含起止时间", "rejected"),
    (100, "您的查询时间过宽,查询时间不能大于30天", "rejected"),
    (100, "此方法仅支持分页查询", "rejected"),
    (1, "warehouse_no must not be null", "rejected"),
    (2, "unknown field", "rejected"),
    (1064, " Unknown Database Error", "unknown"),
    (100, "不存在物流编码为 MR001 的物流公司或业务类型错误!", "rejected"),
    (100, "物流公司不存在或类型错误", "rejected"),
    (100, "无该仓库权限", "rejected"),
    (100, "仓库不存在", "rejected"),
    (100, "采购退货单号不存在", "rejected"),
    (100, "采购退货单号为 CT1 的单据不存在", "rejected"),
    (100, "单据不存在", "rejected"),
    (100, "未找到对应的单据信息!", "rejected"),
    (100, "商家编码不存在", "rejected"),
    (100, "商家编码全不存在或都已删除", "rejected"),
    (100, "单品 daba1 不存在", "rejected"),
    (100, "出库仓库为外部仓库，请确保收货人、收货地址填写完整", "rejected"),
    (100, "仓库编号不可为空", "rejected"),
    (100, "num must not be null", "rejected"),
    (100, "您的查询条件太过宽，请增加查询条件", "rejected"),
];

#[test]
fn every_row_of_the_table_is_judged_and_explained_in_both_languages() {
    for (code, text, expected) in TABLE {
        let judged = created(&reply(&outer(*code, text)), &context());
        assert_eq!(word(&judged.outcome), *expected, "{code} {text}");
        assert!(explained(&judged.outcome) && !judged.unseen, "{code} {text}");
        assert_eq!(judged.throttled.is_some(), *expected == "throttled", "{code} {text}");
        let as_text =
            serde_json::json!({ "status": code.to_string(), "message": text }).to_string();
        assert_eq!(create(&as_text), judged.outcome, "numbers may be text");
    }
}

#[test]
fn the_two_quotas_are_told_apart() {
    let limit = |text| created(&reply(&outer(100, text)), &context()).throttled;
    assert_eq!(limit("超过每分钟最大调用频率限制,请稍后重试"), Some(Limit::Frequency));
    assert_eq!(limit("超过每分钟最大并发次数限制,请稍后重试"), Some(Limit::Concurrency));
}

#[test]
fn texts_decide_where_the_status_is_missing() {
    for (_, text, expected) in TABLE.iter().filter(|(code, ..)| matches!(code, 1 | 100)) {
        let body = serde_json::json!({ "message": text }).to_string();
        assert_eq!(word(&create(&body)), *expected, "{text}");
    }
}

/// Behind a success of the outer layer nothing is "not executed": the document may exist, and only
/// its approval be refused.
#[test]
fn the_inner_layer_never_says_that_the_call_may_be_repeated_unasked() {
    for (code, text, expected) in TABLE.iter().filter(|(code, ..)| *code == 100) {
        let expected = match *expected {
            "throttled" | "misconfigured" => "unlisted inside",
            "unapproved" => "rejected",
            expected => expected,
        };
        let judged = created(&reply(&inner(*code, text)), &context());
        assert_eq!(word(&judged.outcome), expected, "{text}");
        assert!(judged.throttled.is_none(), "{text}");
    }
    let Answer::Unlisted { refusal, layer: Layer::Data } = create(&inner(7, "单据已被他人锁定"))
    else {
        panic!("not unlisted")
    };
    assert_eq!(
        refusal,
        Refusal {
            code: 7,
            message: "单据已被他人锁定".to_owned(),
            explanation: None,
            unapproved: false
        }
    );
    assert!(created(&reply(&inner(7, "单据已被他人锁定")), &context()).unseen);
}

#[test]
fn what_the_table_does_not_hold_is_an_unlisted_refusal_and_counted() {
    for (code, text) in
        [(100, "新的错误"), (1, "新的错误"), (-5, ""), (1012, "超过每分钟最大调用频率限制")]
    {
        let judged = created(&reply(&outer(code, text)), &context());
        assert_eq!(word(&judged.outcome), "unlisted", "{code} {text}");
        assert!(judged.unseen, "{code} {text}");
        let refusal = judged.outcome.refusal().unwrap();
        assert_eq!((refusal.code, refusal.message.as_str()), (code, text), "the ERP's own words");
    }
    let right = r#"{"status":100,"code":"right.required","message":"无该仓库权限"}"#;
    assert_eq!(word(&create(right)), "rejected", "whose code is a text");
    let gateway = create(r#"{"message":"upstream request timeout"}"#);
    assert_eq!(word(&gateway), "unknown", "no code, and no text of the table");
    let both = r#"{"message":"新的错误","data":{"status":0,"message":"CH1"}}"#;
    assert_eq!(word(&create(both)), "unknown", "without a status nobody knows which layer counts");
}

#[test]
fn what_says_that_the_order_was_made_is_probably_created_whatever_follows() {
    for (code, text) in [
        (100, "创建成功，但物流公司不存在或类型错误"),
        (100, "单据已创建"),
        (100, "check_fail"),
        (4, "保存成功，数据库错误"),
    ] {
        assert_eq!(word(&create(&outer(code, text))), "probably created", "{code} {text}");
        assert_eq!(word(&create(&inner(code, text))), "probably created", "{code} {text}");
    }
    for text in ["", "check_fail 审核成功, 推送WMS失败", "审核失败", "仓库不存在"]
    {
        let answer = create(&inner(20, text));
        assert_eq!(word(&answer), "probably created", "{text}");
        assert!(explained(&answer), "{text}");
    }
    assert_eq!(
        word(&create(&outer(20, "新的错误"))),
        "unlisted",
        "20 is a code of the inner layer"
    );
    for text in ["创建成功", "check_fail"] {
        assert_eq!(word(&create(&inner(0, text))), "probably created", "{text}");
    }
    let behind = r#"{"status":100,"message":"","data":{"status":20,"message":"check_fail"}}"#;
    assert_eq!(word(&create(behind)), "probably created", "whatever the outer layer says");
}

#[test]
fn the_operators_texts_reject_like_those_of_the_table() {
    let texts = ["已被他人锁定".to_owned()];
    let context = Context { rejected_texts: &texts, ..context() };
    let judged = |body: &str| created(&reply(body), &context);
    for body in [outer(100, "单据已被他人锁定!"), inner(7, "单据已被他人锁定")] {
        let judged = judged(&body);
        assert_eq!((word(&judged.outcome), judged.unseen), ("rejected", false), "{body}");
        assert!(explained(&judged.outcome));
    }
    // What may have been executed stays so.
    for body in [outer(4, "已被他人锁定"), outer(100, "创建成功，已被他人锁定")] {
        assert_ne!(word(&judged(&body).outcome), "rejected", "{body}");
    }
}

#[test]
fn what_is_no_plausible_number_is_none() {
    for text in ["CK 1", "null", "系统繁忙", "CK1，成", &"C".repeat(41), "CK\u{a0}1"] {
        let answer = create(&inner(0, text));
        assert!(!matches!(answer, Answer::Created { .. }), "{text}");
        assert_eq!(answer.refusal().map(|refusal| refusal.message.as_str()), Some(text));
    }
    assert_eq!(word(&create(&inner(0, " CK-20/1_a "))), "created");
}

#[test]
fn the_senders_own_values_do_not_choose_the_row() {
    for value in ["超过每分钟最大调用频率限制", "权限不足", "数据库错误"] {
        assert_eq!(
            word(&create(&outer(100, &format!("仓库编号为 {value} 的仓库不存在!")))),
            "rejected"
        );
        assert_eq!(word(&create(&outer(100, &format!("批次 {value} 不存在或已停用")))), "rejected");
        assert_eq!(word(&create(&outer(100, &format!("货品 {value} 重复")))), "rejected");
    }
}

#[test]
fn the_samples_of_create_order() {
    assert_eq!(
        create(include_str!("../testdata/flagship-create-outbound-ok.json")),
        Answer::Created { outbound_no: "CH20220414136".to_owned() }
    );
    let Answer::Rejected(refusal) =
        create(include_str!("../testdata/flagship-create-outbound-error.json"))
    else {
        panic!("not rejected")
    };
    assert_eq!(
        (refusal.code, refusal.message.as_str()),
        (100, "仓库编号为 wdtapi3-test11 的仓库不存在!")
    );
    let explanation = refusal.explanation.unwrap();
    assert_eq!((explanation.en(), explanation.zh()), ("there is no such warehouse", "仓库不存在"));
}

#[test]
fn only_two_zeros_and_a_number_are_a_success() {
    for body in [
        r#"{"status":"0","data":{"status":"0","message":"CH1"}}"#,
        r#"{"status":0,"message":null,"data":{"message":" CH1 ","status":0},"new_field":{}}"#,
    ] {
        assert_eq!(create(body), Answer::Created { outbound_no: "CH1".to_owned() }, "{body}");
    }
    assert_eq!(
        create(r#"{"status":0,"data":{"status":0,"message":42}}"#),
        Answer::Created { outbound_no: "42".to_owned() }
    );
    for (length, expected) in [(LONGEST_NUMBER, "created"), (LONGEST_NUMBER + 1, "unknown")] {
        let number = "7".repeat(length);
        assert_eq!(
            word(&create(&format!(r#"{{"status":0,"data":{{"status":0,"message":"{number}"}}}}"#))),
            expected,
            "{length}"
        );
    }
    for body in [
        "",
        "null",
        "[]",
        "{}",
        "[0,0]",
        "<html>502</html>",
        r#"{"status":0}"#,
        r#"{"status":0,"data":null}"#,
        r#"{"status":0,"data":"CH1"}"#,
        r#"{"status":0,"data":[0,"CH1"]}"#,
        r#"{"status":0,"data":{"message":"CH1"}}"#,
        r#"{"status":0,"data":{"status":0}}"#,
        r#"{"status":0,"data":{"status":0,"message":""}}"#,
        r#"{"status":true,"data":{"status":0,"message":"CH1"}}"#,
        r#"{"status":0,"data":{"status":0,"message":"CH1"}"#,
        r#"{"data":{"status":0,"message":"CH1"}}"#,
    ] {
        assert_eq!(word(&create(body)), "unknown", "{body}");
    }
}

#[test]
fn a_truncated_answer_is_never_a_success() {
    let whole = include_str!("../testdata/flagship-create-outbound-ok.json").trim_end();
    for end in 0..whole.len() {
        assert_eq!(word(&create(&whole[..end])), "unknown", "{end} bytes");
    }
    let page = include_str!("../testdata/flagship-outbound-query.json").trim_end();
    for end in (0..page.len()).filter(|end| page.is_char_boundary(*end)) {
        assert!(flagship(&page[..end]).is_err(), "{end} bytes");
    }
}

#[test]
fn an_http_status_other_than_success_is_unknown_for_create_order() {
    let ok = include_str!("../testdata/flagship-create-outbound-ok.json");
    for status in [302, 400, 404, 429, 500, 502, 503] {
        let reply = Reply { status, ..reply(ok) };
        assert_eq!(word(&created(&reply, &context()).outcome), "unknown", "{status}");
    }
}

#[test]
fn a_wrong_clock_is_told_by_how_much() {
    let context = Context { skew: Some(-135_400), ..context() };
    let Answer::Misconfigured(refusal) = created(&reply(&outer(7, "时间戳错误")), &context).outcome
    else {
        panic!("not misconfigured")
    };
    assert_eq!(refusal.message, "时间戳错误 (our clock is about 135 s ahead of the ERP's)");
}

#[test]
fn the_erps_words_are_bounded_and_do_not_repeat_the_signature() {
    let text = format!("验证失败 {} {}", context().signature, "长".repeat(5000));
    let Answer::Misconfigured(refusal) = create(&outer(1, &text)) else {
        panic!("not misconfigured")
    };
    assert!(!refusal.message.contains(context().signature));
    assert!(refusal.message.chars().count() <= 1001);
}

const ROOM: Room = Room { rows: 100, lines: 10_000 };

fn queried_of(call: Call, body: impl Into<Bytes>, room: Room) -> Result<Rows, QueryFault> {
    let reply = Reply { status: 200, date: None, body: body.into() };
    queried(call, &reply, room, &context()).outcome
}

fn flagship(body: &str) -> Result<Rows, QueryFault> {
    queried_of(Call::QueryOutbounds, body.to_owned(), ROOM)
}

fn enterprise(body: &str) -> Result<Rows, QueryFault> {
    queried_of(Call::QueryOutboundsEnterprise, body.to_owned(), ROOM)
}

fn fault_word(fault: &QueryFault) -> &'static str {
    match fault {
        QueryFault::Throttled { .. } => "throttled",
        QueryFault::Unreachable { .. } => "unreachable",
        QueryFault::Unusable { .. } => "unknown",
        QueryFault::Unlisted { .. } => "unlisted",
        QueryFault::Misconfigured { .. } => "misconfigured",
        QueryFault::TooWide { .. } => "too wide",
        QueryFault::TooLong { .. } => "too long",
        QueryFault::Rejected { .. } => "rejected",
    }
}

#[test]
fn what_an_enterprise_account_lacks_is_said_in_words() {
    let says = |code: &str, text: &str| {
        let body = serde_json::json!({ "code": code, "message": text }).to_string();
        enterprise(&body).unwrap_err().to_string()
    };
    let all = says("2030", "");
    for word in ["sid", "appkey", "appsecret", "clock", "permission"] {
        assert!(all.contains(word), "{word}: {all}");
    }
    assert!(says("9", "权限不足").contains("permission"));
}

/// Texts of queries that mean a mistake of the connector or of the configured filters.
#[test]
fn texts_about_the_parameters_of_a_query_are_rejections() {
    for (code, text) in [
        (100, "状态应该是由逗号分隔开的整数数组"),
        (100, "状态参数格式不正确"),
        (100, "日期格式不合法"),
        (1, "For input string: \"9,5\""),
    ] {
        let fault = flagship(&outer(code, text)).unwrap_err();
        assert_eq!(fault_word(&fault), "rejected", "{code} {text}");
    }
    assert_eq!(
        fault_word(&flagship(&outer(1064, " Unknown Database Error")).unwrap_err()),
        "unknown"
    );
    assert_eq!(
        fault_word(&flagship(&outer(100, "您的查询条件太过宽，请增加查询条件")).unwrap_err()),
        "too wide"
    );
}

/// A rejection for `createOrder`, which has no window.
const TOO_WIDE: [&str; 3] = ["您的查询时间过宽", "查询时间不能大于30天", "您的查询条件太过宽"];

#[test]
fn queries_follow_the_same_table() {
    for (code, text, expected) in TABLE {
        let expected = match *expected {
            "unapproved" => "rejected",
            "rejected" if TOO_WIDE.iter().any(|wide| text.contains(wide)) => "too wide",
            other => other,
        };
        assert_eq!(
            fault_word(&flagship(&outer(*code, text)).unwrap_err()),
            expected,
            "{code} {text}"
        );
    }
    let judged = queried(Call::QueryOutbounds, &reply(&outer(12, "?")), ROOM, &context());
    assert!(judged.unseen && matches!(judged.outcome, Err(QueryFault::Unlisted { .. })));
    for (code, text, expected) in [
        (1012, "", "throttled"),
        (2104, "start_time与end_time时间跨度不能超过最大范围 30天", "too wide"),
        (2180, "start_time与end_time时间跨度不能超过最大范围 30天", "too wide"),
        (9, "start_time与end_time时间跨度不能超过最大范围 30天", "too wide"),
        (2180, "?", "unlisted"),
        (1, "?", "unlisted"),
        (9, "您的接口调用频率超限", "throttled"),
        // One text names both: the cooler reading costs a pause, the other one a person.
        (2100, "appkey调用频率超限", "throttled"),
        (2030, "", "misconfigured"),
        (2060, "?", "misconfigured"),
        (2100, "?", "misconfigured"),
        (9, "签名错误", "misconfigured"),
        (9, "sid is not exists", "misconfigured"),
        (9, "SID is not exists", "misconfigured"),
        (9, "AppKey不存在", "misconfigured"),
        (9, "签名验证失败", "misconfigured"),
        (9, "app auth fail", "misconfigured"),
        (9, "接口权限不足", "misconfigured"),
        (9, "无仓库访问权限", "misconfigured"),
    ] {
        let body = serde_json::json!({ "code": code.to_string(), "message": text }).to_string();
        assert_eq!(fault_word(&enterprise(&body).unwrap_err()), expected, "{code} {text}");
    }
}

#[test]
fn the_samples_of_the_queries() {
    let page = flagship(include_str!("../testdata/flagship-outbound-query.json")).unwrap();
    assert_eq!((page.rows.len(), page.total_count), (1, Some(1)));
    assert!(
        std::str::from_utf8(&page.rows[0].json)
            .unwrap()
            .contains(r#""goods_total_cost": "9.94240000""#),
        "every digit is kept"
    );
    let page = flagship(include_str!("../testdata/flagship-purchase-return-query.json")).unwrap();
    assert_eq!((page.rows.len(), page.total_count), (1, Some(1)));
    let page = enterprise(include_str!("../testdata/enterprise-outbound-query.json")).unwrap();
    assert_eq!((page.rows.len(), page.total_count), (1, Some(1)));
    let fault = flagship(include_str!("../testdata/flagship-query-error.json")).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "the ERP rejects the query QueryOutbounds with 100: 参数中必须包含起止时间",
    );
    assert_eq!(
        fault_word(
            &enterprise(include_str!("../testdata/enterprise-error-span.json")).unwrap_err()
        ),
        "too wide"
    );
    assert_eq!(
        flagship(&outer(100, "您的查询条件太过宽，请增加查询条件")).unwrap_err().to_string(),
        "the ERP finds the query QueryOutbounds too wide (100: 您的查询条件太过宽，请增加查询条件); ask for a shorter window, or set filters"
    );
}

/// Ids and count of a page, or the word of its fault.
fn shown(page: &Result<Rows, QueryFault>) -> String {
    match page {
        Ok(page) => {
            let ids: Vec<&str> =
                page.rows.iter().map(|row| row.id.as_deref().unwrap_or("?")).collect();
            let count = page.total_count.map_or("no count".to_owned(), |count| count.to_string());
            format!("[{}] of {count}", ids.join(" "))
        }
        Err(fault) => fault_word(fault).to_owned(),
    }
}

/// What PHP back ends, gateways and broken connections have been seen to answer with.
const FORMS: &[(&[u8], &str)] = &[
    (br#"{"status":0,"data":{"total_count":1,"order":[{"stockout_id":7}]}}"#, "[7] of 1"),
    (br#"{"status":"0","data":{"total_count":"1","order":[{"stockout_id":"7"}]}}"#, "[7] of 1"),
    (b" {\n\t\"data\" : {\"order\":[ {\"stockout_id\":7} ],\"total_count\":1},\r\n\"status\":0}\n", "[7] of 1"),
    (br#"{"st\u0061tus":0,"data":{"stockout_list":[{"stockout_id":7}],"total_count":null}}"#, "[7] of no count"),
    (br#"{"status":0,"data":{"total_count":0,"order":[]}}"#, "[] of 0"),
    // Empty in other forms: nothing was found, whether or not that is counted.
    (br#"{"status":0,"data":[]}"#, "[] of no count"),
    (br#"{"status":0,"data":[ ]}"#, "[] of no count"),
    (br#"{"status":0,"data":null}"#, "[] of no count"),
    (br#"{"status":0,"data":""}"#, "[] of no count"),
    (br#"{"status":0,"data":{}}"#, "[] of no count"),
    (br#"{"status":0,"data":{"total_count":0,"order":{}}}"#, "[] of 0"),
    (br#"{"status":0,"data":{"total_count":0,"order":null}}"#, "[] of 0"),
    (br#"{"status":0,"data":{"total_count":0,"order":""}}"#, "[] of 0"),
    (br#"{"status":0,"data":{"total_count":0}}"#, "[] of 0"),
    (br#"{"status":0,"data":{"order":{}}}"#, "[] of no count"),
    (br#"{"status":0,"data":{"total_count":"","order":[]}}"#, "[] of no count"),
    // A list that is missing says nothing against the count.
    (br#"{"status":0,"data":{"total_count":3}}"#, "unknown"),
    (br#"{"status":0,"data":{"total_count":3,"order":{}}}"#, "unknown"),
    // No list and not empty.
    (br#"{"status":0,"data":{"order":{"0":{"stockout_id":7}}}}"#, "unknown"),
    (br#"{"status":0,"data":{"order":7}}"#, "unknown"),
    (br#"{"status":0,"data":[{"order":[]}]}"#, "unknown"),
    (br#"{"status":0,"data":7}"#, "unknown"),
    (br#"{"status":0,"data":{"total_count":-1,"order":[]}}"#, "unknown"),
    (br#"{"status":0,"data":{"total_count":[],"order":[]}}"#, "unknown"),
    // Nothing says that the ERP has looked.
    (b"", "unknown"),
    (b"not json", "unknown"),
    (b"{}", "unknown"),
    (b"[]", "unknown"),
    (br#"{"status":0}"#, "unknown"),
    (br#"{"data":{"total_count":0,"order":[]}}"#, "unknown"),
    // Of two lists, or two counts, nobody knows which counts.
    (br#"{"status":0,"data":{"order":[],"order":[{"stockout_id":7}]}}"#, "unknown"),
    (br#"{"status":0,"data":{"order":[],"stockout_list":[]}}"#, "unknown"),
    (br#"{"status":0,"status":1,"data":{"order":[]}}"#, "unknown"),
    // Cut off, or followed by something.
    (br#"{"status":0,"data":{"order":[{"stockout_id":7}]"#, "unknown"),
    (br#"{"status":0,"data":{"order":[{"stockout_id":7},]}}"#, "unknown"),
    (br#"{"status":0,"data":{"order":[]}} x"#, "unknown"),
    (br#"{"status":0,"data":{"order":[{"stockout_id":7,"remark":"a\xb"}]}}"#, "unknown"),
    // Records that are none are records all the same: the decoder says what is wrong with them.
    (br#"{"status":0,"data":{"order":[7,null,[],{"stockout_id":7}]}}"#, "[? ? ? 7] of no count"),
    // Control characters in texts, and broken UTF-8 in a record.
    (b"{\"status\":0,\"data\":{\"total_count\":2,\"order\":[{\"remark\":\"a\nb\tc\",\"stockout_id\":7},{\"stockout_id\":8}]}}", "[7 8] of 2"),
    (b"{\"status\":0,\"data\":{\"total_count\":2,\"order\":[{\"remark\":\"\xe7\xa0\",\"stockout_id\":7},{\"stockout_id\":8}]}}", "[7 8] of 2"),
    (b"{\"status\":0,\"data\":{\"total_count\":2,\"order\":[{\"stockout_id\":\"\xe7\xa0\"},{\"stockout_id\":8}]}}", "[? 8] of 2"),
    (b"{\"status\":0,\"message\":\"a\nb\",\"data\":{\"total_count\":0,\"order\":[]}}", "[] of 0"),
    (b"{\"status\":0,\"message\":\"\xe7\xa0\",\"data\":{\"total_count\":0,\"order\":[]}}", "unknown"),
    (b"{\"status\":1,\"message\":\"sid is not\n\"}", "misconfigured"),
    (b"{\"status\":1,\"message\":\"sid is not\xe7\"}", "unknown"),
    (b"{\"status\":0,\"data\":{\"order\":[]}\x01}", "unknown"),
    (b"{\"status\":0,\"data\":{\"order\":[]}\xe7}", "unknown"),
];

#[test]
fn what_can_be_read_of_an_odd_answer_is_read() {
    for (body, expected) in FORMS {
        let page = queried_of(Call::QueryOutbounds, *body, ROOM);
        assert_eq!(shown(&page), *expected, "{}", body.escape_ascii());
    }
    for (body, expected) in [
        (
            r#"{"code":"0","message":"ok","total_count":"1","stockout_list":[{"stockout_id":"9258"}]}"#,
            "[9258] of 1",
        ),
        (r#"{"code":0,"total_count":0,"stockout_list":{}}"#, "[] of 0"),
        (r#"{"code":0,"total_count":0}"#, "[] of 0"),
        (r#"{"code":0,"stockout_list":""}"#, "[] of no count"),
        (r#"{"code":0}"#, "[] of no count"),
        (r#"{"code":0,"total_count":2}"#, "unknown"),
        (r#"{"total_count":0,"stockout_list":[]}"#, "unknown"),
    ] {
        assert_eq!(shown(&enterprise(body)), expected, "{body}");
    }
}

#[test]
fn repairs_lose_nothing_and_a_broken_record_stays_as_it_came() {
    let good = r#"{"stockout_id":1,"remark":"旺"}"#;
    let lines = "{\"remark\":\"a\nb\",\"stockout_id\":2}";
    let broken = b"{\"stockout_id\":3,\"remark\":\"a\nb\xe7\xa0\"}";
    let list = [good.as_bytes(), lines.as_bytes(), &broken[..], good.as_bytes()].join(&b","[..]);
    let body = [br#"{"status":0,"data":{"total_count":4,"order":["#, &list[..], b"]}}"].concat();
    let page = queried_of(Call::QueryOutbounds, body, ROOM).unwrap();
    let rows: Vec<&[u8]> = page.rows.iter().map(|row| &row.json[..]).collect();
    let repaired = r#"{"remark":"a\u000ab","stockout_id":2}"#;
    assert_eq!(rows, [good.as_bytes(), repaired.as_bytes(), &broken[..], good.as_bytes()]);
    assert_eq!(shown(&Ok(page)), "[1 2 3 1] of 4");
}

#[test]
fn no_more_rows_and_lines_are_taken_than_there_is_room_for() {
    let page = |rows: &[String]| {
        format!(r#"{{"status":0,"data":{{"total_count":1,"order":[{}]}}}}"#, rows.join(","))
    };
    let of_lines = |count: usize| {
        format!(r#"{{"stockout_id":1,"details_list":[{}]}}"#, vec!["{}"; count].join(","))
    };
    let outcome = |rows: &[String]| queried_of(Call::QueryOutbounds, page(rows), ROOM);
    assert_eq!(outcome(&vec!["{}".to_owned(); 100]).unwrap().rows.len(), 100);
    let fault = outcome(&vec!["{}".to_owned(); 101]).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "the ERP gave no usable answer to QueryOutbounds: its answer has 101 records, where 100 were asked for"
    );
    assert!(outcome(&[of_lines(5_000), of_lines(5_000)]).is_ok());
    let rows = [of_lines(5_000), of_lines(5_001)];
    assert_eq!(
        outcome(&rows).unwrap_err().to_string(),
        "the ERP's answer to QueryOutbounds is too long to be read: its records have 10001 lines, more than 10000; ask with a smaller page_size"
    );
    let heads = Room { lines: usize::MAX, ..ROOM };
    assert!(queried_of(Call::QueryOutbounds, page(&rows), heads).is_ok());
    // Nothing is made of a record with more lines than a record may have.
    assert_eq!(outcome(&[of_lines(10_001), of_lines(10_000)]).unwrap().rows.len(), 2);
}

#[test]
fn an_http_status_decides_for_queries() {
    for (status, expected) in [
        (302, "misconfigured"),
        (404, "misconfigured"),
        (403, "misconfigured"),
        (429, "throttled"),
        (500, "unknown"),
    ] {
        let reply = Reply { status, ..reply("{}") };
        assert_eq!(
            fault_word(
                &queried(Call::QueryOutbounds, &reply, ROOM, &context()).outcome.unwrap_err()
            ),
            expected,
            "{status}"
        );
    }
}
