//! Who starts and ends the processes: a thread of its own, since the kernel's parent-death signal goes by the thread that forked, and a
//! test's thread ends before its siblings. When this is dropped they are killed, by id, and waited for.

use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::Error;

type Commands = Vec<(&'static str, Command)>;
type Children = Arc<Mutex<Vec<(&'static str, Child)>>>;

/// The thread and what it started.
pub(crate) struct Spawner {
    children: Children,
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// What it shall do, and whom it tells what came of it.
struct Order {
    /// Empty: it ends what runs.
    starts: Commands,
    tell: SyncSender<Result<(), Error>>,
}

impl Spawner {
    /// Nothing runs yet.
    pub(crate) fn begin() -> Self {
        let children = Children::default();
        let (orders, told) = sync_channel(1);
        let shared = children.clone();
        let thread = thread::spawn(move || live(&told, &shared));
        Self { children, orders: Some(orders), thread: Some(thread) }
    }

    /// Starts these, by name.
    pub(crate) fn starts(&self, starts: Commands) -> Result<(), Error> {
        let (tell, told) = sync_channel(1);
        let died = || Error::Key("the thread that starts the control plane died".to_owned());
        let orders = self.orders.as_ref().ok_or_else(died)?;
        orders.send(Order { starts, tell }).map_err(|_| died())?;
        told.recv().map_err(|_| died())?
    }

    /// Kills all that runs, and waits for it.
    pub(crate) fn ends(&self) -> Result<(), Error> {
        self.starts(Commands::new())
    }

    /// Does something while the process of this name stands still.
    pub(crate) fn paused<T>(&self, name: &str, meanwhile: impl FnOnce() -> T) -> Result<T, Error> {
        let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        let child = children.iter().find(|(of, _)| *of == name).map(|(_, child)| child.id());
        let id = child.and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let id = id.ok_or_else(|| Error::Key(format!("{name} does not run")))?;
        let signal =
            |signal| kill(id, signal).map_err(|error| Error::io(format!("{signal} to {name}"))(error.into()));
        signal(Signal::SIGSTOP)?;
        // Until all of its threads stand still.
        let stands = waitid(Id::Pid(id), WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        stands.map_err(|error| Error::io(format!("waiting until {name} stands still"))(error.into()))?;
        let result = meanwhile();
        signal(Signal::SIGCONT)?;
        Ok(result)
    }

    /// The name of a process that has ended, which none does by itself.
    pub(crate) fn ended(&self) -> Option<&'static str> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.iter_mut().find_map(|(name, child)| (!matches!(child.try_wait(), Ok(None))).then_some(*name))
    }

    /// The processes' ids.
    pub(crate) fn ids(&self) -> Vec<u32> {
        let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.iter().map(|(_, child)| child.id()).collect()
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn live(orders: &Receiver<Order>, children: &Children) {
    while let Ok(Order { starts, tell }) = orders.recv() {
        let outcome = if starts.is_empty() {
            kill_all(children);
            Ok(())
        } else {
            start(starts, children)
        };
        let _ = tell.send(outcome);
    }
    kill_all(children);
}

fn start(commands: Commands, children: &Children) -> Result<(), Error> {
    for (name, mut command) in commands {
        let child = command.spawn().map_err(Error::io(format!("starting {name}")))?;
        children.lock().unwrap_or_else(PoisonError::into_inner).push((name, child));
    }
    Ok(())
}

fn kill_all(children: &Children) {
    for (_, mut child) in children.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        // An API server that lost its etcd hangs on SIGTERM.
        let _ = child.kill();
        let _ = child.wait();
    }
}
