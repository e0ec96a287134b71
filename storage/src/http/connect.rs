//! Tells in traces how long a new connection took: the name looked up, TCP, a proxy on the way, TLS.
//!
//! The library makes a connection inside of the request that needs one. When another connection becomes free first, it
//! finishes the new one in a task of its own and keeps it for later; [`Step`] then ends the span.

use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;
use tracing::field::Empty;
use tracing::info_span;

use super::failure::name_of_connect;
use crate::backend::BoxFuture;
use crate::trace::{Step, TARGET};

/// Wraps what makes connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectSpans;

/// Makes connections, each told in a span.
#[derive(Clone, Debug)]
pub(super) struct Connect<S>(S);

impl<S> Layer<S> for ConnectSpans {
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
        let connecting = self.0.call(address);
        Box::pin(async move {
            let connected = step.cover(connecting).await;
            if let Err(error) = &connected {
                step.failed(name_of_connect(error.as_ref()), error);
            }
            connected
        })
    }
}
