// The page's language, and its words in Chinese.
const chinese = (navigator.languages || [navigator.language || ""]).find((tag) => /^(zh|en)/i.test(tag))?.toLowerCase().startsWith("zh") || false;
const english = {
  "doubt-help": "The ERP was called and nobody knows with what effect. While it is asked, there is nothing to do. One that ended IN_DOUBT needs a person: compare the candidates in the ERP, then decide with `wdt-connector commands resolve`. This list is this instance's since its start; `wdt-connector commands list` reads the whole journal.",
  "dead-help": "Records this instance has set aside, with the reason. `wdt-connector dlq show` prints one, `dlq redrive` sends it again once its cause is gone.",
};
const words = {
  "Skip to the content": "跳到正文", "What needs attention": "需要处理", "The last ten minutes": "最近十分钟", "Commands in doubt": "存疑指令", "Follow one command": "追踪一条指令",
  "Return number": "退货单号", "Command id": "指令编号", Show: "查看", "Recent results": "最近结果", "Recent changes": "最近变更", "Dead letters": "死信", Notices: "通知",
  "Everything else": "其他", "All figures of /status": "/status 的全部数据",
  "doubt-help": "已调用 ERP，但结果未知。正在查询的指令无需处理；以 IN_DOUBT 结束的指令需要人工判断：在 ERP 中核对候选单据，然后用 `wdt-connector commands resolve` 作出决定。此处只列出本实例启动以来的指令；`wdt-connector commands list` 读取全部日志。",
  "dead-help": "本实例搁置的记录及原因。`wdt-connector dlq show` 查看单条，原因消除后用 `dlq redrive` 重新发送。",
  ready: "就绪", "not ready": "未就绪", healthy: "运行正常", stalled: "停滞", version: "版本", "up for": "已运行", live: "实时", "no connection": "连接中断",
  "no answer from the connector; trying again": "连接器没有应答，正在重试", "access refused": "访问被拒绝",
  "no progress for": "无进展已达", "not running in this instance": "本实例未运行此管道", yes: "是", no: "否", none: "无",
  Commands: "指令管道", "Purchase returns": "采购退货单变更", "Return outbounds": "退货出库单变更",
  command: "接收", validate: "校验", journal: "日志", call: "调用", outcome: "判定", settle: "结算", window: "窗口", fetch: "读取", diff: "比较", change: "变更", publish: "发布",
  "commands topic": "指令主题", "results topic": "结果主题", "ERP query": "ERP 查询", "change topic": "变更主题",
  "records behind": "条未读", "per minute": "每分钟", "wait for quota": "等待配额", "wait for a commit": "等待提交", "on the wire": "在途调用", "in doubt": "存疑", settled: "已完成", "dead letters": "死信",
  "pages asked": "已查询页", "rows read": "已读行", unchanged: "未变", events: "事件", "behind now": "落后", windows: "窗口",
  "circuit closed": "熔断器闭合", "circuit open": "熔断器断开", "circuit half open": "熔断器半开", paused: "已暂停", running: "运行中",
  snapshot: "首次读取", waiting: "等待 ERP", restoring: "恢复中", elsewhere: "在其他实例", blocked: "受阻", Pause: "暂停", Resume: "恢复",
  "Pause this pipeline on all instances?": "在所有实例上暂停此管道？", "Resume this pipeline on all instances?": "在所有实例上恢复此管道？", "was told": "已下达", "was not changed": "未能更改",
  watermark: "水位", "late pass": "补漏水位", "last window": "最近窗口", partitions: "分区", "open intents": "未结意图", duplicates: "重复", recovered: "已找回", received: "已接收",
  "first read": "首次读取", backfill: "回填", left: "剩余", "clock of the ERP": "ERP 时钟偏差",
  "Commands per minute": "每分钟指令数", "Waiting commands": "等待中的指令", "Events per minute": "每分钟事件数", "Lag of the feeds, seconds": "变更延迟（秒）", "Quota used": "已用配额",
  "calls in the last minute": "最近一分钟调用次数", limit: "上限", lookup: "存疑查询", "live feeds": "实时变更", late_pass: "补漏", pending: "待处理", lag: "未读", in_flight: "在途",
  at: "时间", return_no: "退货单号", command_id: "指令编号", attempt: "尝试次数", attempts: "尝试次数", since: "开始于", "what to do": "如何处理", "result": "结果", detail: "说明", outbound_no: "出库单号",
  "took": "耗时", pipeline: "管道", reason: "原因", key: "键", place: "位置", number: "单号", "operation": "操作", modified: "修改时间", status: "状态", text: "内容",
  "the ERP is being asked; nothing to do": "正在向 ERP 查询，无需处理", "candidates in the ERP": "ERP 中的候选单据", "no candidate is known: search the ERP for the marker in the remark": "没有候选单据：请在 ERP 备注中查找标记",
  "then decide": "然后决定", "this instance has not seen this command lately": "本实例最近没有处理过这条指令", "wdt-connector commands show reads the journal": "可用 wdt-connector commands show 查看日志",
  "new": "新增", "changed": "变更", "first time read": "首次读取", duplicate: "重复", resolved: "已裁决",
  commands: "指令管道", purchase_returns: "采购退货单", return_outbounds: "退货出库单", undecodable: "无法解码", invalid: "校验未通过", in_doubt: "存疑", unverified: "待核实", resolution_rejected: "处置被拒", record_error: "不符合模式",
  "reload refused": "新凭据被拒绝，仍用原凭据", "no chart yet": "尚无数据",
};
// A text of the connector's own, in the page's language where it comes in both.
const inWords = (item, field) => (chinese && item[`${field}_zh`]) || item[field];
const say = (text) => (chinese ? words[text] : english[text]) || text;
document.documentElement.lang = chinese ? "zh-CN" : "en";
for (const node of document.querySelectorAll("[data-say]")) node.textContent = say(node.dataset.say);
const locale = chinese ? "zh-CN" : "en";
