/** Clients' certificates, by LXD's rules, and the rights that come with them. */
import { X509Certificate } from 'node:crypto';
import { LxstowError } from '../contract/errors.ts';
import type { Role, TrustedCertificate } from '../contract/schemas.ts';

/** The rights that a certificate or a token gives its client. */
export type Grant = Pick<TrustedCertificate, 'role' | 'restricted' | 'projects'>;

interface WantedGrant {
  role?: Role | undefined;
  restricted?: boolean | undefined;
  projects?: string[] | null | undefined;
}

/** Makes a grant. The role defaults to admin, or to operator if restricted: operators may do what LXD's restricted clients may do. */
export function newGrant({ role, restricted = false, projects }: WantedGrant): Grant {
  return { role: role ?? (restricted ? 'operator' : 'admin'), restricted, projects: projectsOf(restricted, projects) };
}

/** Returns `grant` with the wanted changes. The role stays unless another is named, because LXD's clients do not know roles. */
export function changedGrant(grant: Grant, wanted: WantedGrant): Grant {
  const restricted = wanted.restricted ?? grant.restricted;
  const projects = wanted.projects === undefined ? grant.projects : wanted.projects;
  return { role: wanted.role ?? grant.role, restricted, projects: projectsOf(restricted, projects) };
}

/** True when both give a client the same rights. */
export function sameGrant(one: Grant, other: Grant): boolean {
  const facts = ({ role, restricted, projects }: Grant) =>
    JSON.stringify([role, restricted, restricted ? projects.toSorted() : []]);
  return facts(one) === facts(other);
}

function projectsOf(restricted: boolean, projects: string[] | null | undefined): string[] {
  if (!restricted && projects?.length)
    throw new LxstowError('bad-request', 'projects are given, but restricted is not true');
  return [...new Set(projects ?? [])];
}

/** Parses PEM, or DER in base64. Throws bad-request. */
export function parseCertificate(text: string): X509Certificate {
  try {
    return new X509Certificate(text.includes('-----BEGIN') ? text : Buffer.from(text, 'base64'));
  } catch (cause) {
    throw new LxstowError('bad-request', `Invalid certificate material: ${(cause as Error).message}`, { cause });
  }
}

/** LXD's fingerprint of a certificate (PEM or DER): the SHA-256 of the DER, in lower-case hex. */
export function fingerprintOf(certificate: string | Buffer | X509Certificate): string {
  const parsed = certificate instanceof X509Certificate ? certificate : new X509Certificate(certificate);
  return parsed.fingerprint256.replaceAll(':', '').toLowerCase();
}

/** True while the certificate is valid, its first and last second included. */
export function isInTime(certificate: X509Certificate, now = Date.now()): boolean {
  return Date.parse(certificate.validFrom) <= now && now <= Date.parse(certificate.validTo);
}

/** The certificate's common name without control characters, at most 255 characters; undefined when nothing is left. */
export function commonName(certificate: X509Certificate): string | undefined {
  const line = certificate.subject?.split('\n').find((each) => each.startsWith('CN='));
  return (
    line
      ?.slice(3)
      .replaceAll(/\p{Cc}/gu, '')
      .slice(0, 255) || undefined
  );
}

/** Makes an entry for the trust store. Like LXD, throws bad-request for a certificate that is not valid now. */
export function trustedCertificate(certificate: X509Certificate, name: string, grant: Grant): TrustedCertificate {
  if (!isInTime(certificate)) {
    const early = Date.parse(certificate.validFrom) > Date.now();
    throw new LxstowError('bad-request', `The provided certificate ${early ? "isn't valid yet" : 'is expired'}`);
  }
  return {
    fingerprint: fingerprintOf(certificate),
    name,
    type: 'client',
    certificate: certificate.toString(),
    ...grant,
    added_at: new Date().toISOString(),
  };
}

export function pemCertificates(text: string): string[] {
  return text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
}
