//! A registry that gives the secrets that the test tells it to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use chatfn_proto::registry::v1::{
    AccessSecretRequest, AccessSecretResponse,
    secret_access_service_server::{SecretAccessService, SecretAccessServiceServer},
};
use chatfn_rpc::{ApiError, Server, ServerConfig, Shutdown, reasons};
use tokio::{net::TcpListener, sync::watch};
use tonic::{Code, Request, Response, Status};

/// Secrets by resource name, until the test ends.
pub(crate) struct Vault {
    /// The flag of an invoker that reads from here.
    pub(crate) flag: String,
    state: Arc<Mutex<State>>,
    hangs: watch::Sender<bool>,
    _shutdown: Shutdown,
}

#[derive(Default)]
struct State {
    values: HashMap<String, String>,
    away: bool,
    asked: Vec<String>,
}

struct Access {
    state: Arc<Mutex<State>>,
    hangs: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl SecretAccessService for Access {
    async fn access_secret(
        &self,
        request: Request<AccessSecretRequest>,
    ) -> Result<Response<AccessSecretResponse>, Status> {
        let name = request.into_inner().name;
        self.state.lock().unwrap().asked.push(name.clone());
        let _ = self.hangs.clone().wait_for(|hangs| !hangs).await;
        let state = self.state.lock().unwrap();
        if state.away {
            return Err(ApiError::unavailable(reasons::STORE_UNAVAILABLE, "the database is away").into());
        }
        match state.values.get(&name) {
            Some(value) => {
                Ok(Response::new(AccessSecretResponse { value: value.clone().into(), revision: 1 }))
            }
            None => {
                Err(ApiError::new(Code::NotFound, reasons::SECRET_NOT_FOUND, format!("no {name}")).into())
            }
        }
    }
}

impl Vault {
    pub(crate) async fn start(values: &[(&str, &str)]) -> Self {
        let (state, hangs) = (Arc::new(Mutex::new(State::default())), watch::Sender::new(false));
        let access = Access { state: Arc::clone(&state), hangs: hangs.subscribe() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let flag = format!("--registry=http://{}", listener.local_addr().unwrap());
        let server = Server::builder(ServerConfig::default())
            .service(SecretAccessServiceServer::new(access))
            .descriptors(chatfn_proto::FILE_DESCRIPTOR_SET)
            .build()
            .await
            .unwrap();
        let shutdown = Shutdown::new();
        tokio::spawn(server.serve(listener, shutdown.soft()));
        let vault = Self { flag, state, hangs, _shutdown: shutdown };
        for (name, value) in values {
            vault.set(name, value);
        }
        vault
    }

    pub(crate) fn set(&self, name: &str, value: &str) {
        self.state.lock().unwrap().values.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn delete(&self, name: &str) {
        self.state.lock().unwrap().values.remove(name);
    }

    /// From now on nothing is given.
    pub(crate) fn go_away(&self) {
        self.state.lock().unwrap().away = true;
    }

    /// From now on nothing is answered.
    pub(crate) fn hang(&self) {
        self.hangs.send_replace(true);
    }

    /// Answers again, what it was asked meanwhile included.
    pub(crate) fn answer(&self) {
        self.hangs.send_replace(false);
    }

    /// What it was asked for, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }
}
