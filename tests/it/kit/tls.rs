//! TLS in front of a plain server: what a load balancer does for an ERP or a registry.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::parts::certificates::Identity;

/// Listens with TLS on a port of its own and passes bytes on to a plain server.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl TlsFront {
    /// In front of `host:port`.
    pub fn to(target: &str, identity: &Identity) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificate =
            CertificateDer::from_pem_slice(identity.certificate.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a pair");
        let config = Arc::new(config);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let ended = Arc::new(AtomicBool::new(false));
        let (target, over) = (target.to_owned(), Arc::clone(&ended));
        thread::spawn(move || {
            for incoming in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (config, target) = (Arc::clone(&config), target.clone());
                thread::spawn(move || pass(config, incoming, &target));
            }
        });
        Self { address, ended }
    }

    /// The port; connect to it as `localhost`.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Both directions on one thread, since a TLS stream cannot be split: each is read with a short
/// timeout in turn.
fn pass(config: Arc<ServerConfig>, incoming: TcpStream, target: &str) {
    let Ok(mut plain) = TcpStream::connect(target) else { return };
    let Ok(connection) = ServerConnection::new(config) else { return };
    let mut secure = StreamOwned::new(connection, incoming);
    let turn = Some(Duration::from_millis(2));
    if secure.sock.set_read_timeout(turn).is_err() || plain.set_read_timeout(turn).is_err() {
        return;
    }
    let mut buffer = [0_u8; 16 * 1024];
    loop {
        match secure.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) if plain.write_all(&buffer[..length]).is_err() => break,
            Ok(_) => {}
            Err(fault) if matches!(fault.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
        match plain.read(&mut buffer) {
            Ok(0) => break,
            Ok(length)
                if secure.write_all(&buffer[..length]).and_then(|()| secure.flush()).is_err() =>
            {
                break;
            }
            Ok(_) => {}
            Err(fault) if matches!(fault.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    // The alert that closes the session: without it a client takes an answer without length for
    // truncated.
    secure.conn.send_close_notify();
    let _ = secure.flush();
}
