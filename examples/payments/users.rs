use std::{collections::BTreeMap, str::FromStr};

use actix_web::{Error, HttpMessage, HttpRequest, dev::ServiceRequest, web};
use actix_web_httpauth::extractors::{
    AuthenticationError,
    basic::{self, BasicAuth},
};
use idempotency::{Digest, Scope};
use subtle::ConstantTimeEq;

/// Who may pay, with which password.
#[derive(Clone, Default)]
pub(crate) struct Users(BTreeMap<String, String>);

/// The user whose password was right.
struct Verified(String);

impl Users {
    fn verify(&self, name: &str, password: &str) -> bool {
        let known = self.0.get(name);
        // Hashes are of one length, and compared also for a name that nobody has: the time tells neither.
        let [known_hash, hash] =
            [known.map_or("", String::as_str), password].map(|it| Digest::of(it.as_bytes()));
        let right: bool = known_hash.as_bytes().ct_eq(hash.as_bytes()).into();
        known.is_some() && right
    }
}

/// `alice:secret,bob:secret`.
impl FromStr for Users {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut users = BTreeMap::new();
        for user in text.split(',') {
            match user.split_once(':') {
                Some((name, password)) if !name.is_empty() && !password.is_empty() => {
                    if users.insert(name.to_owned(), password.to_owned()).is_some() {
                        return Err(format!("{name} is there twice"));
                    }
                }
                _ => return Err("users are written as name:password,name:password".to_owned()),
            }
        }
        Ok(Self(users))
    }
}

/// The authenticating middleware: lets a request pass once it knows whose it is, and says so in its extensions.
pub(crate) async fn authenticate(
    request: ServiceRequest,
    credentials: BasicAuth,
) -> Result<ServiceRequest, (Error, ServiceRequest)> {
    let (name, password) = (credentials.user_id(), credentials.password().unwrap_or_default());
    let users = request.app_data::<web::Data<Users>>();
    if users.is_some_and(|users| users.verify(name, password)) {
        request.extensions_mut().insert(Verified(name.to_owned()));
        return Ok(request);
    }
    let unauthorized = AuthenticationError::from(basic::Config::default().realm("payments"));
    Err((unauthorized.into(), request))
}

/// For the tracker: the same key of two users is two requests.
pub(crate) fn scope(request: &HttpRequest) -> Option<Scope> {
    request.extensions().get::<Verified>().map(|user| Scope::principal([&user.0]))
}
