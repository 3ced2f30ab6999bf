use std::{sync::Arc, time::Duration};

use serde::Deserialize;

use crate::{
    ledger::{Charge, Ledger},
    problem::Problem,
};

/// What a client asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Payment {
    amount: u64,
    currency: String,
    #[serde(default)]
    simulate: Simulate,
}

/// How the payment provider behaves, to try things out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Simulate {
    delay_ms: u64,
    outcome: Provider,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Provider {
    #[default]
    Ok,
    Declined,
    #[serde(rename = "provider_down")]
    Down,
    Panic,
}

impl Payment {
    pub(crate) fn from_json(body: &[u8]) -> Result<Self, Problem> {
        let payment: Self =
            serde_json::from_slice(body).map_err(|error| Problem::invalid(error.to_string()))?;
        if payment.amount == 0 {
            return Err(Problem::invalid("the amount must be more than 0"));
        }
        if payment.currency.len() != 3 || !payment.currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(Problem::invalid("the currency must be three capital letters, such as EUR"));
        }
        if payment.simulate.delay_ms > 600_000 {
            return Err(Problem::invalid("a simulated delay may be 600000 ms at most"));
        }
        Ok(payment)
    }

    /// Charges: the work that must not happen twice.
    pub(crate) async fn charge(self, ledger: Arc<Ledger>) -> Result<Charge, Problem> {
        tokio::time::sleep(Duration::from_millis(self.simulate.delay_ms)).await;
        match self.simulate.outcome {
            Provider::Declined => return Err(Problem::declined()),
            Provider::Down => return Err(Problem::provider_down()),
            Provider::Ok | Provider::Panic => {}
        }
        let id = format!("pay_{:016x}", rand::random::<u64>());
        let charge = Charge { id, amount: self.amount, currency: self.currency };
        let line = charge.clone();
        let written = tokio::task::spawn_blocking(move || ledger.append(&line)).await;
        assert!(
            !matches!(self.simulate.outcome, Provider::Panic),
            "simulated: a panic after the charge was made"
        );
        match written {
            Ok(Ok(())) => Ok(charge),
            // Part of the line may be in the file.
            written => {
                tracing::error!(?written, "the ledger cannot be written");
                Err(Problem::unknown())
            }
        }
    }
}
