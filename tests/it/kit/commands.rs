//! Commands as senders write them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::json;
use wdt_connector::testing::{
    decimal::Decimal,
    schema::{Codec, CommandLine, CreateMode, CreateReturnOutbound},
};

use super::{records::Sender, rig::Rig};

/// A valid command for `return_no` with one line; its id is `id`.
pub fn command(return_no: &str, id: &str) -> CreateReturnOutbound {
    CreateReturnOutbound {
        command_id: id.to_owned(),
        return_no: return_no.to_owned(),
        warehouse_no: WAREHOUSE.to_owned(),
        logistics_code: None,
        create_mode: Some(CreateMode::Approved),
        remark: Some("退货 test".to_owned()),
        details: vec![line(SPEC, "2")],
        issued_at: None,
        expires_at: None,
    }
}

/// The warehouse all test returns belong to.
pub const WAREHOUSE: &str = "WH-SH-01";
/// A SKU the ERP knows.
pub const SPEC: &str = "SKU-00001";

/// One line.
pub fn line(spec_no: &str, num: &str) -> CommandLine {
    CommandLine {
        spec_no: spec_no.to_owned(),
        num: Decimal::parse(num).expect("a decimal"),
        unit_name: None,
        position_no: None,
        batch_no: None,
        expire_date: None,
        defect: None,
        remark: None,
    }
}

/// In Avro single-object encoding.
pub fn avro(command: &CreateReturnOutbound) -> Vec<u8> {
    Codec::single_object().encode_command(command).expect("a command fits its schema")
}

/// In JSON.
pub fn json_bytes(command: &CreateReturnOutbound) -> Vec<u8> {
    let details: Vec<_> = command
        .details
        .iter()
        .map(|line| json!({"spec_no": line.spec_no, "num": line.num}))
        .collect();
    json!({
        "command_id": command.command_id,
        "return_no": command.return_no,
        "warehouse_no": command.warehouse_no,
        "create_mode": command.create_mode,
        "remark": command.remark,
        "details": details,
    })
    .to_string()
    .into_bytes()
}

/// A command for a return of its own.
pub fn numbered(number: usize) -> CreateReturnOutbound {
    command(&format!("ST{number:06}"), &format!("cmd-{number}"))
}

/// Sends numbered commands in Avro, one after the other, until it is told to stop.
#[derive(Debug)]
pub struct Stream {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<CreateReturnOutbound>>,
}

impl Stream {
    /// Begins with this number; `pause` lies between two commands.
    pub fn into(rig: &Rig, first: usize, pause: Duration) -> Self {
        let (topic, sender) = (rig.topics.commands.clone(), Sender::with(rig.broker.clone()));
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut sent = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let one = numbered(first + sent.len());
                sender.send(&topic, Some(one.return_no.as_bytes()), Some(&avro(&one)), &[]);
                sent.push(one);
                std::thread::sleep(pause);
            }
            sender.flush();
            sent
        });
        Self { over, thread }
    }

    /// Ends it; what was sent.
    pub fn end(self) -> Vec<CreateReturnOutbound> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("the stream's thread")
    }
}
