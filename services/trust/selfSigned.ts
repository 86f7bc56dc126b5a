/** Self-signed certificates: a gateway's, and a command-line user's. */
import { isIP } from 'node:net';
import { generate } from 'selfsigned';

interface SelfSigned {
  commonName: string;
  usage: 'server' | 'client';
  /** DNS names and IP addresses that it is valid for; default: none. */
  names?: string[];
}

const validYears = 10;

/** Creates a P-384 key and its certificate, both PEM, as LXD does. */
export async function selfSigned({ commonName, usage, names }: SelfSigned): Promise<{ cert: string; key: string }> {
  const notAfterDate = new Date();
  notAfterDate.setFullYear(notAfterDate.getFullYear() + validYears);
  const altNames = [...new Set(names)].map((name) =>
    isIP(name) ? { type: 7 as const, ip: name } : { type: 2 as const, value: name },
  );
  const { cert, private: key } = await generate([{ name: 'commonName', value: commonName }], {
    keyType: 'ec',
    curve: 'P-384',
    algorithm: 'sha384',
    notAfterDate,
    extensions: [
      { name: 'basicConstraints', cA: false, critical: true },
      { name: 'keyUsage', digitalSignature: true, critical: true },
      { name: 'extKeyUsage', ...(usage === 'server' ? { serverAuth: true } : { clientAuth: true }) },
      ...(names ? [{ name: 'subjectAltName' as const, altNames }] : []),
    ],
  });
  return { cert, key };
}
