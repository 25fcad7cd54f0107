//! A copy of what etcd holds, as a snapshot of a disk takes it: all at one moment, while etcd stands still. etcd starts on it as after a
//! power cut, at the revision that it had then.

use std::path::Path;

use tempfile::TempDir;

use crate::Error;

/// etcd's folder in that of a control plane.
pub(crate) const DATA: &str = "etcd";

/// What etcd held when it was taken. Good for the control plane that it is of.
pub struct Backup(TempDir);

impl Backup {
    /// Of the control plane in this folder; etcd writes nothing meanwhile.
    pub(crate) fn of(folder: &Path) -> Result<Self, Error> {
        let backup = tempfile::Builder::new().prefix("backup-").tempdir_in(folder);
        let backup = backup.map_err(Error::io("making a folder for a backup"))?;
        copy(&folder.join(DATA), &backup.path().join(DATA)).map_err(Error::io("copying what etcd holds"))?;
        Ok(Self(backup))
    }

    /// Takes the place of what is there; nobody writes there meanwhile.
    pub(crate) fn put_back(self, folder: &Path) -> Result<(), Error> {
        let place = folder.join(DATA);
        std::fs::remove_dir_all(&place).map_err(Error::io("removing what etcd holds"))?;
        std::fs::rename(self.0.path().join(DATA), place).map_err(Error::io("putting a backup back"))
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    // etcd takes no folder that others may look into.
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_or_came_since_is_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let wal = folder.path().join("etcd/member/wal");
        std::fs::create_dir_all(&wal).unwrap();
        std::fs::write(wal.join("0.wal"), "before").unwrap();
        let backup = Backup::of(folder.path()).unwrap();
        std::fs::write(wal.join("0.wal"), "after").unwrap();
        std::fs::write(wal.join("1.wal"), "after").unwrap();
        backup.put_back(folder.path()).unwrap();
        assert_eq!(std::fs::read_to_string(wal.join("0.wal")).unwrap(), "before");
        assert!(!wal.join("1.wal").exists());
    }
}
