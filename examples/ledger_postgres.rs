//! Moves money between accounts, exactly once: the effect and the record of the request commit together, and so does the
//! message that tells of it.
//!
//! ```sh
//! cargo run --example ledger_postgres -- --url postgres://payments@127.0.0.1/payments transfer order-1 alice bob 500
//! cargo run --example ledger_postgres -- --url postgres://payments@127.0.0.1/payments balances
//! cargo run --example ledger_postgres -- --url postgres://payments@127.0.0.1/payments relay
//! ```
//!
//! Kill it wherever you like and say the same again: the money has moved once, or not at all.

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::{error::Error, fmt};

use clap::{Parser, Subcommand};
use idempotency::{
    Fingerprint, PostgresConfig, PostgresStore, RequestId, Scope, Secret, SystemClock,
    postgres::{
        TransactError, Transacted, WorkError,
        tokio_postgres::{self, Transaction},
    },
    store::{Setup, Store},
};

/// Moves money between accounts, exactly once
#[derive(Parser)]
struct Args {
    /// The database: postgres://user:password@host/database
    #[arg(long, default_value = "postgres://postgres@127.0.0.1/postgres")]
    url: String,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Moves an amount; the same key again is the same transfer
    Transfer { key: String, from: String, to: String, amount: i64 },
    /// Prints what every account has
    Balances,
    /// Hands on what was written into the outbox, by printing it
    Relay,
}

/// Why a transfer is not made.
#[derive(Debug)]
enum Refused {
    NotEnough,
    NoSuchAccount,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEnough => f.write_str("there is not enough money"),
            Self::NoSuchAccount => f.write_str("there is no such account"),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let store = PostgresStore::open(PostgresConfig::from_url(&args.url)?)?;
    // A real service has a secret of its own, from where it keeps its secrets.
    let secret = Secret::new([7; 32]);
    store.setup(&Setup::new(secret.check(), idempotency::Clock::now(&SystemClock::new()))).await?;
    match args.command {
        Command::Transfer { key, from, to, amount } => {
            let id = RequestId::derive(Some(&secret), &Scope::global(), [key.as_bytes()]);
            let said = [from.as_bytes(), to.as_bytes(), &amount.to_be_bytes()[..]];
            let payload = Fingerprint::derive(Some(&secret), said);
            println!("{}", transfer(&store, id, payload, from, to, amount).await?);
        }
        Command::Balances => balances(&store).await?,
        Command::Relay => {
            let outbox = store.outbox();
            let told = outbox.relay(100, async |message| {
                println!("{}: {}", message.topic(), String::from_utf8_lossy(message.payload()));
                Ok::<_, std::convert::Infallible>(())
            });
            println!("{} handed on", told.await?.handed_on);
        }
    }
    Ok(())
}

async fn transfer(
    store: &PostgresStore,
    id: RequestId,
    payload: Fingerprint,
    from: String,
    to: String,
    amount: i64,
) -> Result<String, Box<dyn Error>> {
    let outbox = store.outbox();
    let moved = store.transact(id, payload, move |transaction| {
        let (from, to, outbox) = (from.clone(), to.clone(), outbox.clone());
        Box::pin(async move {
            accounts(transaction).await?;
            let take = "UPDATE accounts SET balance = balance - $2 WHERE name = $1 AND balance >= $2";
            if transaction.execute(take, &[&from, &amount]).await? == 0 {
                return Err(WorkError::Other(Refused::NotEnough));
            }
            let give = "UPDATE accounts SET balance = balance + $2 WHERE name = $1";
            if transaction.execute(give, &[&to, &amount]).await? == 0 {
                return Err(WorkError::Other(Refused::NoSuchAccount));
            }
            let receipt = format!("{amount} from {from} to {to}");
            outbox.put(transaction, "transfers", receipt.as_bytes()).await?;
            Ok(receipt.into_bytes().into())
        })
    });
    Ok(match moved.await {
        Ok(Transacted::Done { response, replayed }) => {
            let receipt =
                String::from_utf8_lossy(response.bytes().map_or(&[], |bytes| &bytes[..])).into_owned();
            format!("{}: {receipt}", if replayed { "was moved before" } else { "moved" })
        }
        Ok(Transacted::Processing) => "is being moved at this moment".to_owned(),
        Ok(Transacted::Mismatch) => "the key belongs to another transfer".to_owned(),
        Ok(other) => format!("{other:?}"),
        Err(TransactError::Work(refused)) => format!("not moved: {refused}"),
        Err(error) => return Err(error.into()),
    })
}

/// Two accounts to begin with.
async fn accounts(transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
    let is_there = transaction.query_one("SELECT to_regclass('accounts') IS NOT NULL", &[]).await?;
    if !is_there.get::<_, bool>(0) {
        // One makes them, and the others wait for it.
        let make = "SELECT pg_advisory_xact_lock(1); \
                    CREATE TABLE IF NOT EXISTS accounts (name text PRIMARY KEY, balance bigint NOT NULL); \
                    INSERT INTO accounts VALUES ('alice', 1000000), ('bob', 1000000) ON CONFLICT DO NOTHING";
        transaction.batch_execute(make).await?;
    }
    Ok(())
}

async fn balances(store: &PostgresStore) -> Result<(), Box<dyn Error>> {
    // A transaction like any other, whose result is not kept: it says no at its end.
    let id = RequestId::from_bytes(rand::random());
    let looked = store.transact(id, Fingerprint::derive(None, []), |transaction| {
        Box::pin(async move {
            accounts(transaction).await?;
            let rows = transaction.query("SELECT name, balance FROM accounts ORDER BY name", &[]).await?;
            let lines: Vec<String> = rows
                .iter()
                .map(|row| format!("{}: {}", row.get::<_, &str>(0), row.get::<_, i64>(1)))
                .collect();
            Err(WorkError::Other(lines.join("\n")))
        })
    });
    match looked.await {
        Err(TransactError::Work(lines)) => println!("{lines}"),
        other => println!("{other:?}"),
    }
    Ok(())
}
