//! `ControlPlane`: the running API server with this project's CustomResourceDefinitions, and clients of it.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::config::AuthInfo;
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Config, ResourceExt as _};
use serde_json::json;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};

use crate::processes::Processes;
use crate::{Assets, Backup, Error};

/// Two cores with a compiler beside it take their time; usually it is 3 s.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// Another process may take a free port before ours does.
const ATTEMPTS: usize = 3;

/// A running API server. Ends when dropped, or with the process.
pub struct ControlPlane {
    processes: Processes,
    config: Config,
    assets: Assets,
}

/// On whose behalf a client speaks (impersonation): a user, its groups, and `extra` as authenticators add it.
#[derive(Clone, Debug, Default)]
pub struct Somebody {
    /// Such as `system:serviceaccount:edge-system:chaos-agent`.
    pub user: String,
    /// Such as `system:serviceaccounts`.
    pub groups: Vec<String>,
    /// Such as `authentication.kubernetes.io/pod-name`.
    pub extra: HashMap<String, Vec<String>>,
}

impl Somebody {
    /// A service account as its token would be seen, of a pod on a node.
    pub fn service_account(namespace: &str, name: &str, pod: &str, node: &str) -> Self {
        let one =
            |key: &str, value: &str| (format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        Self {
            user: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ],
            extra: HashMap::from([one("pod-name", pod), one("node-name", node)]),
        }
    }
}

static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();

/// The control plane of this test binary; the first caller starts it.
///
/// # Errors
/// When it cannot be started; each caller tries again.
pub async fn shared() -> Result<&'static ControlPlane, Error> {
    SHARED.get_or_try_init(ControlPlane::start).await
}

impl ControlPlane {
    /// Starts one that belongs to the caller alone, ready and with the CustomResourceDefinitions.
    ///
    /// # Errors
    /// When the binaries are missing or it does not become ready; the error has the end of the logs.
    pub async fn start() -> Result<Self, Error> {
        Self::start_with(&[]).await
    }

    /// As [`Self::start`], and the API server is given these flags too.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(flags: &[&str]) -> Result<Self, Error> {
        let assets = Assets::from_environment()?;
        let mut attempt = 1;
        let control_plane = loop {
            match Self::attempt(&assets, flags).await {
                Err(Error::NotReady { logs, .. })
                    if attempt < ATTEMPTS && logs.contains("address already in use") =>
                {
                    attempt += 1;
                }
                outcome => break outcome?,
            }
        };
        control_plane.install().await?;
        Ok(control_plane)
    }

    async fn attempt(assets: &Assets, flags: &[&str]) -> Result<Self, Error> {
        let processes = Processes::start(assets, flags)?;
        let config = until_ready(&processes).await?;
        Ok(Self { processes, config, assets: assets.clone() })
    }

    /// What etcd holds at this moment. It stands still meanwhile, for some tenths of a second.
    ///
    /// # Errors
    /// When it does not run, or there is no room for it.
    pub fn back_up(&self) -> Result<Backup, Error> {
        self.processes.back_up()
    }

    /// Kills both processes and starts them again on what etcd held then, as an administrator restores a cluster. Clients made before
    /// that are of the same use afterwards; what they watch has ended, as after any outage.
    ///
    /// # Errors
    /// When it cannot be put back, or is not ready in time.
    pub async fn restore(&self, backup: Backup) -> Result<(), Error> {
        self.processes.restore(backup)?;
        until_ready(&self.processes).await?;
        for crd in edge_api::schema::crds()? {
            self.serves(&crd).await?;
        }
        Ok(())
    }

    async fn install(&self) -> Result<(), Error> {
        let crds: Api<CustomResourceDefinition> = Api::all(self.client()?);
        for crd in edge_api::schema::crds()? {
            let name = crd.name_any();
            let params = PatchParams::apply("control-plane").force();
            crds.patch(&name, &params, &Patch::Apply(&crd))
                .await
                .map_err(Error::kube(format!("applying the CustomResourceDefinition {name}")))?;
            let established = await_condition(crds.clone(), &name, is_crd_established());
            if !matches!(timeout(READY_WITHIN, established).await, Ok(Ok(_))) {
                let what = format!("did not establish {name}");
                return Err(Error::NotReady { what, within: READY_WITHIN, logs: self.logs() });
            }
            self.serves(&crd).await?;
        }
        Ok(())
    }

    /// Waits until a new kind is served: an established one answers "storage is (re)initializing" for a moment.
    async fn serves(&self, crd: &CustomResourceDefinition) -> Result<(), Error> {
        let names = &crd.spec.names;
        let kind = GroupVersionKind::gvk(&crd.spec.group, edge_api::VERSION, &names.kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, &names.plural);
        let objects: Api<DynamicObject> = Api::all_with(self.client()?, &resource);
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            match objects.list(&ListParams::default().limit(1)).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(Error::kube(format!("listing {}", names.plural))(error));
                }
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// How to reach it as admin. Retries of the client's own are off.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// A client as admin, for the runtime of the caller: clients do not outlive the runtime they were made in.
    ///
    /// # Errors
    /// When the certificate is not understood.
    pub fn client(&self) -> Result<Client, Error> {
        Client::try_from(self.config()).map_err(Error::kube("making a client"))
    }

    /// A client on somebody's behalf, with that one's rights.
    ///
    /// # Errors
    /// When the certificate is not understood.
    pub fn client_as(&self, somebody: &Somebody) -> Result<Client, Error> {
        Client::try_from(self.config_as(somebody)).map_err(Error::kube("making a client"))
    }

    /// How to reach it on somebody's behalf, with that one's rights.
    pub fn config_as(&self, somebody: &Somebody) -> Config {
        let mut config = self.config();
        config.auth_info.impersonate = Some(somebody.user.clone());
        config.auth_info.impersonate_groups = Some(somebody.groups.clone());
        config.auth_info.impersonate_user_extra = Some(somebody.extra.clone());
        config
    }

    /// A kubeconfig on somebody's behalf, for another process; JSON, which is YAML. Good as long as this runs.
    pub fn kubeconfig(&self, somebody: &Somebody) -> String {
        let cluster = json!({
            "server": format!("https://127.0.0.1:{}", self.processes.port),
            "certificate-authority": self.processes.certificate(),
        });
        let user = json!({
            "token": self.processes.token,
            "as": somebody.user,
            "as-groups": somebody.groups,
            "as-user-extra": somebody.extra,
        });
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "it", "cluster": cluster }],
            "users": [{ "name": "somebody", "user": user }],
            "contexts": [{ "name": "here", "context": { "cluster": "it", "user": "somebody" } }],
            "current-context": "here",
        })
        .to_string()
    }

    /// Where its data, keys and logs lie.
    pub fn folder(&self) -> &std::path::Path {
        self.processes.folder()
    }

    /// Ids of etcd and kube-apiserver.
    pub fn process_ids(&self) -> Vec<u32> {
        self.processes.ids()
    }

    /// The end of the logs.
    pub fn logs(&self) -> String {
        self.processes.logs()
    }

    /// Arguments of kubectl as admin, where the assets have a kubectl: the binary first.
    pub fn kubectl(&self) -> Option<Vec<String>> {
        let kubectl = self.assets.kubectl()?;
        Some(vec![
            kubectl.to_string_lossy().into_owned(),
            format!("--server=https://127.0.0.1:{}", self.processes.port),
            format!("--certificate-authority={}", self.processes.certificate().display()),
            format!("--token={}", self.processes.token),
            "--cache-dir=/nonexistent".to_owned(),
        ])
    }
}

/// Waits until it answers; gives how to reach it.
async fn until_ready(processes: &Processes) -> Result<Config, Error> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if let Some(config) = configuration(processes)?
            && is_ready(&config).await
        {
            return Ok(config);
        }
        let what = match processes.ended() {
            Some(name) => format!("is not ready ({name} ended)"),
            None if Instant::now() > deadline => "is not ready".to_owned(),
            None => {
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        return Err(Error::NotReady { what, within: READY_WITHIN, logs: processes.logs() });
    }
}

/// None until the API server has written its certificate.
fn configuration(processes: &Processes) -> Result<Option<Config>, Error> {
    let Ok(text) = std::fs::read(processes.certificate()) else { return Ok(None) };
    let certificates = pem::parse_many(text)
        .map_err(|error| Error::Key(format!("the API server's certificate: {error}")))?;
    if certificates.is_empty() {
        return Ok(None);
    }
    let url = format!("https://127.0.0.1:{}", processes.port)
        .parse()
        .map_err(|error| Error::Key(format!("the API server's address: {error}")))?;
    let mut config = Config::new(url);
    config.root_cert = Some(certificates.into_iter().map(pem::Pem::into_contents).collect());
    config.auth_info = AuthInfo { token: Some(processes.token.clone().into()), ..AuthInfo::default() };
    config.default_retry = false;
    Ok(Some(config))
}

async fn is_ready(config: &Config) -> bool {
    let Ok(client) = Client::try_from(config.clone()) else { return false };
    let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else { return false };
    timeout(Duration::from_secs(5), client.request_text(request)).await.is_ok_and(|answer| answer.is_ok())
}
