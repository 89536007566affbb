//! Pings to clients that answer them, and an end to connections on which nothing is opened.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use virtft_rpc::keepalive;

use super::session::Session;

/// A client is pinged after so much silence.
const PING_AFTER: Duration = Duration::from_secs(5);
/// It is gone after so much.
const GONE_AFTER: Duration = Duration::from_secs(30);
/// A connection must have been opened by then: authentication may have to wait for a person.
const OPEN_WITHIN: Duration = Duration::from_secs(120);

/// Looks after a connection until it ends; does not return before.
pub async fn look_after(session: &Arc<Session>) {
    let mut ticks = tokio::time::interval(PING_AFTER);
    loop {
        ticks.tick().await;
        let silence = session.silence();
        if session.opened().is_none() && session.age() > OPEN_WITHIN {
            tracing::info!("client {}: it opened nothing; its connection is closed", session.id);
            session.outbox.close();
        } else if !session.answers_pings.load(Ordering::Relaxed) || silence < PING_AFTER {
            continue;
        } else if silence > GONE_AFTER {
            tracing::info!("client {}: it does not answer; its connection is closed", session.id);
            session.outbox.close();
        } else if let Ok(ping) = keepalive::header(keepalive::PING).frame(&[]) {
            session.outbox.send(ping);
        }
    }
}
