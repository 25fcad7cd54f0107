//! The operator's two replicas: which of them leads, as the Lease says, and until when.

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use xtask::demo::install::SYSTEM;
use xtask::wait;

use super::world::{PATIENCE, PodSeen, SOON, World};

/// How long a Lease lasts, how long its holder tries to renew it, and how often.
pub(crate) type LeaseTimes = [&'static str; 3];
/// Those of the demo.
pub(crate) const USUAL: LeaseTimes = ["6s", "4s", "1s"];

/// What the Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    /// Who leads: the pod, and a number for each start of its process.
    pub(crate) holder: String,
    /// When it said so last, by its own clock, which is this machine's.
    pub(crate) renewed: Timestamp,
    /// From then on another may lead.
    pub(crate) ends: Timestamp,
}

/// Two operators that are ready.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// Who leads.
    pub(crate) leader: PodSeen,
    /// Who would follow.
    pub(crate) standby: PodSeen,
    /// By this.
    pub(crate) term: Term,
}

impl Term {
    /// Whether a process of this pod leads.
    pub(crate) fn is_of(&self, pod: &PodSeen) -> bool {
        self.holder.rsplit_once('_').is_some_and(|(name, _)| name == pod.name)
    }

    fn of(lease: &Lease) -> Option<Self> {
        let spec = lease.spec.as_ref()?;
        let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty())?;
        let renewed = spec.renew_time.as_ref()?.0;
        let lasts = SignedDuration::from_secs(spec.lease_duration_seconds?.into());
        Some(Self { holder, renewed, ends: renewed + lasts })
    }
}

impl World {
    /// Gives the operators these times, and waits until those of other times are gone.
    pub(crate) fn lead_by(&self, times: LeaseTimes) {
        let mut lease = self.lease.lock().unwrap();
        if *lease == times {
            return;
        }
        let names = ["LEASE_DURATION", "RENEW_DEADLINE", "RETRY_PERIOD"];
        let set: Vec<_> =
            names.iter().zip(times).map(|(name, time)| format!("LEADER_ELECT_{name}={time}")).collect();
        let operators = "deployment/edge-operator";
        let change = ["-n", SYSTEM, "set", "env", operators].into_iter();
        self.kubectl(&change.chain(set.iter().map(String::as_str)).collect::<Vec<_>>());
        self.kubectl(&["-n", SYSTEM, "rollout", "status", operators, "--timeout=180s"]);
        *lease = times;
    }

    /// What the Lease says now; nothing when nobody leads.
    pub(crate) fn term(&self) -> Result<Option<Term>> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), SYSTEM);
        let lease = self.run(leases.get("edge-operator")).context("asking for the operator's Lease")?;
        Ok(Term::of(&lease))
    }

    /// Both operators, once both are ready and one of them leads. They are on different nodes, as deploy/demo demands.
    pub(crate) fn both_operators(&self) -> Pair {
        let pair = wait::until("two operators of which one leads", 4 * PATIENCE, SOON, || {
            let (pods, Some(term)) = (self.operator_pods(), self.term()?) else { return Ok(None) };
            let [one, other] = &pods[..] else { return Ok(None) };
            let (leader, standby) = if term.is_of(one) { (one, other) } else { (other, one) };
            let (leader, standby) = (leader.clone(), standby.clone());
            Ok(term.is_of(&leader).then_some(Pair { leader, standby, term }))
        })
        .unwrap();
        assert_ne!(pair.leader.node, pair.standby.node, "{pair:?}");
        pair
    }

    /// Waits until the Lease names another holder than that of `former`: what it said of the former one last, and what it says now.
    pub(crate) fn followed(&self, former: &Term) -> (Term, Term) {
        let mut last = former.clone();
        let next = wait::until("another leader", PATIENCE, SOON, || {
            let Some(now) = self.term()? else { return Ok(None) };
            if now.holder != former.holder {
                return Ok(Some(now));
            }
            last = now;
            Ok(None)
        });
        (last, next.unwrap())
    }
}
