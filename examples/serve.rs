//! How the services here on axum begin and end.

#[path = "stop.rs"]
mod stop;

use std::{error::Error, net::SocketAddr, time::Duration};

use axum::Router;
use idempotency::TrackerHandle;
use tokio::{net::TcpListener, sync::oneshot};

/// How long requests in flight may take to finish at a shutdown, and their responses to be sent.
const GRACE: Duration = Duration::from_secs(30);
const LAST_BYTES: Duration = Duration::from_secs(5);

/// Serves until it is asked to stop.
#[expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]
pub(crate) async fn serve(
    listen: SocketAddr,
    app: Router,
    tracker: TrackerHandle,
) -> Result<(), Box<dyn Error>> {
    let asked_to_stop = stop::asked_to_stop()?;
    let listener = TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let (stop, stopping) = oneshot::channel::<()>();
    let serving = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopping.await) });
    let serving = tokio::spawn(serving.into_future());

    asked_to_stop.await?;
    // The tracker first: it takes nothing new and waits for what runs, also where the client hung up.
    tracker.shutdown(GRACE).await?;
    drop(stop);
    // A client that never ends its request must not keep us.
    match tokio::time::timeout(LAST_BYTES, serving).await {
        Ok(served) => served??,
        Err(_) => eprintln!("some connections were still open"),
    }
    Ok(())
}
