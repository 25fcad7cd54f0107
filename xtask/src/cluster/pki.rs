//! Certificates and keys of one run: an authority of its own, a certificate for each component and each node.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::ToSpan;
use jiff::civil::Date;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::plan::{self, Plan};

/// Long enough for any cluster that is thrown away, short enough to be no risk.
const VALID_DAYS: i64 = 90;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    from: Date,
    to: Date,
}

/// Writes everything that components read into `dir`: `ca.crt`, `sa.key`, `sa.pub`, and a `.crt` and `.key` for each of
/// server, kubelet-client, admin, controller-manager, scheduler, proxy, node1 … and node1-serving …
///
/// # Errors
/// When a key cannot be made or a file not be written.
pub(super) fn write(dir: &Path, plan: &Plan) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let authority = Authority::new(dir)?;
    let accounts = KeyPair::generate().context("making the key of service accounts")?;
    store(&dir.join("sa.key"), &accounts.serialize_pem())?;
    store(&dir.join("sa.pub"), &accounts.public_key_pem())?;

    let server = [Ipv4Addr::LOCALHOST, plan::CONTROL_PLANE, plan::API_SERVICE];
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    authority.issue(dir, "server", subject("kube-apiserver", None), &server, &names)?;
    authority.issue(dir, "admin", subject("admin", Some("system:masters")), &[], &[])?;
    for (file, user) in [
        ("kubelet-client", "kube-apiserver-kubelet-client"),
        ("controller-manager", "system:kube-controller-manager"),
        ("scheduler", "system:kube-scheduler"),
        ("proxy", "system:kube-proxy"),
    ] {
        authority.issue(dir, file, subject(user, None), &[], &[])?;
    }
    for number in plan.node_numbers() {
        let node = plan::node_name(number);
        let user = format!("system:node:{node}");
        authority.issue(dir, &node, subject(&user, Some("system:nodes")), &[], &[])?;
        let address = [plan::node_address(number), Ipv4Addr::LOCALHOST];
        authority.issue(dir, &format!("{node}-serving"), subject(&user, None), &address, &[&node])?;
    }
    Ok(())
}

fn subject(user: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params
}

impl Authority {
    #[expect(clippy::disallowed_methods, reason = "certificates are made for now; nothing is decided by it")]
    fn new(dir: &Path) -> Result<Self> {
        let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
        let (from, to) = (today.saturating_sub(1.day()), today.saturating_add(VALID_DAYS.days()));
        let mut params = subject("edge-device-operator test cluster", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        valid(&mut params, from, to)?;
        let key = KeyPair::generate().context("making the authority's key")?;
        let certificate = params.self_signed(&key).context("signing the authority's certificate")?;
        store(&dir.join("ca.crt"), &certificate.pem())?;
        Ok(Self { issuer: Issuer::new(params, key), from, to })
    }

    fn issue(
        &self,
        dir: &Path,
        file: &str,
        mut params: CertificateParams,
        addresses: &[Ipv4Addr],
        names: &[&str],
    ) -> Result<()> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let serves = !addresses.is_empty() || !names.is_empty();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if serves {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.subject_alt_names = addresses.iter().map(|ip| SanType::IpAddress(IpAddr::V4(*ip))).collect();
        for name in names {
            let name = (*name).try_into().with_context(|| format!("{name} fits no certificate"))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        valid(&mut params, self.from, self.to)?;
        let key = KeyPair::generate().with_context(|| format!("making the key of {file}"))?;
        let certificate = params.signed_by(&key, &self.issuer).with_context(|| format!("signing {file}"))?;
        store(&dir.join(format!("{file}.crt")), &certificate.pem())?;
        store(&dir.join(format!("{file}.key")), &key.serialize_pem())
    }
}

fn valid(params: &mut CertificateParams, from: Date, to: Date) -> Result<()> {
    let at = |date: Date| -> Result<_> {
        let (month, day) = (u8::try_from(date.month())?, u8::try_from(date.day())?);
        Ok(rcgen::date_time_ymd(i32::from(date.year()), month, day))
    };
    params.not_before = at(from)?;
    params.not_after = at(to)?;
    Ok(())
}

fn store(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("writing {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_component_and_each_node_gets_a_certificate_and_a_private_key() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &Plan::new("test", 2).unwrap()).unwrap();
        for name in ["server", "admin", "scheduler", "proxy", "node1", "node2", "node2-serving"] {
            let read = |kind: &str| fs::read_to_string(dir.path().join(format!("{name}.{kind}"))).unwrap();
            assert!(read("crt").starts_with("-----BEGIN CERTIFICATE-----"), "{name}");
            assert!(read("key").starts_with("-----BEGIN PRIVATE KEY-----"), "{name}");
        }
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(dir.path().join("sa.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "keys are for their owner alone");
    }
}
