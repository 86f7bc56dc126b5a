import { X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import { generate } from 'selfsigned';

const dayMs = 86_400_000;

export interface Certificate {
  /** PEM. */
  cert: string;
  /** PEM, PKCS #8. */
  key: string;
  /** As LXD writes it: the SHA-256 of the DER, in hex. */
  fingerprint: string;
}

interface CertificateOptions {
  commonName: string;
  /** How long from now it is valid; below 0 it has expired, so many days ago. */
  days?: number;
  /** Signed by it; self-signed without. */
  ca?: Certificate;
  /** Makes a CA that can sign others. */
  isCa?: boolean;
  /** Names and IP addresses of the server. */
  addresses?: string[];
}

/** A certificate with a new P-384 key, as LXD makes them, for servers and clients alike. */
export async function makeCertificate(options: CertificateOptions): Promise<Certificate> {
  const { commonName, days = 30, ca, isCa = false, addresses = ['localhost', '127.0.0.1'] } = options;
  const notAfterDate = new Date(Date.now() + days * dayMs);
  const made = await generate([{ name: 'commonName', value: commonName }], {
    keyType: 'ec',
    curve: 'P-384',
    algorithm: 'sha384',
    notBeforeDate: new Date(Math.min(Date.now(), notAfterDate.getTime()) - dayMs),
    notAfterDate,
    ...(ca && { ca: { cert: ca.cert, key: ca.key } }),
    extensions: [
      { name: 'basicConstraints', cA: isCa, critical: true },
      { name: 'keyUsage', digitalSignature: true, keyCertSign: isCa, cRLSign: isCa, critical: true },
      ...(isCa ? [] : [{ name: 'extKeyUsage', serverAuth: true, clientAuth: true } as const]),
      {
        name: 'subjectAltName',
        altNames: addresses.map((each) =>
          isIP(each) ? { type: 7 as const, ip: each } : { type: 2 as const, value: each },
        ),
      },
    ],
  });
  const fingerprint = new X509Certificate(made.cert).fingerprint256.replaceAll(':', '').toLowerCase();
  return { cert: made.cert, key: made.private, fingerprint };
}
