//! The making of a connection: the name looked up, TCP, a proxy on the way, TLS. Traces tell how long it took; the request
//! that waits for it knows that it is not the server's answer which is missing.
//!
//! The library makes a connection inside of the request that needs one. When another connection becomes free first, it
//! finishes the new one in a task of its own and keeps it for later; [`Step`] then ends the span.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Instant;

use tower_layer::Layer;
use tower_service::Service;
use tracing::field::Empty;
use tracing::info_span;

use super::failure::name_of_connect;
use crate::backend::BoxFuture;
use crate::lock;
use crate::trace::{Step, TARGET};

tokio::task_local! {
    /// Of the request that is being sent.
    static WAIT: Arc<Wait>;
}

/// What a request waits for: a connection, then the answer.
#[derive(Debug)]
pub(super) struct Wait(Mutex<Stage>);

/// What is waited for now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage {
    pub(super) since: Instant,
    /// Connections that are being made for the request.
    connecting: u32,
}

impl Stage {
    pub(super) fn is_connecting(&self) -> bool {
        self.connecting > 0
    }
}

impl Wait {
    /// Begins now.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Stage { since: Instant::now(), connecting: 0 })))
    }

    /// The connections that are made while `sending` is polled are made for this wait.
    pub(super) fn over<F: Future>(self: &Arc<Self>, sending: F) -> impl Future<Output = F::Output> {
        WAIT.scope(self.clone(), sending)
    }

    pub(super) fn stage(&self) -> Stage {
        *lock(&self.0)
    }
}

/// A connection that is being made for a wait.
struct Connecting(Arc<Wait>);

impl Connecting {
    fn new(wait: &Arc<Wait>) -> Self {
        let mut stage = lock(&wait.0);
        *stage = Stage { since: Instant::now(), connecting: stage.connecting + 1 };
        Self(wait.clone())
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        let mut stage = lock(&self.0.0);
        *stage = Stage { since: Instant::now(), connecting: stage.connecting - 1 };
    }
}

/// Wraps what makes connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectLayer;

/// Makes connections, each told in a span and to whom it is made for.
#[derive(Clone, Debug)]
pub(super) struct Connect<S>(S);

impl<S> Layer<S> for ConnectLayer {
    type Service = Connect<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Connect(inner)
    }
}

impl<S, R> Service<R> for Connect<S>
where
    S: Service<R, Error = Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, address: R) -> Self::Future {
        let mut step = Step::within(|| {
            info_span!(
                target: TARGET, "connect", nydus.overtaken = Empty, error.type = Empty,
                otel.status_description = Empty,
            )
        });
        let waiting = WAIT.try_with(Connecting::new);
        let connecting = self.0.call(address);
        Box::pin(async move {
            let connected = step.cover(connecting).await;
            drop(waiting);
            if let Err(error) = &connected {
                step.failed(name_of_connect(error.as_ref()), error);
            }
            connected
        })
    }
}
