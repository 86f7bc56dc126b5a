/** Checks the gateway's certificate, its clients' certificates, and where notices go. Creates nothing: `lxstow gateway` creates what it needs. */

import type { X509Certificate } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { existsSync } from 'node:fs';
import { access, constants } from 'node:fs/promises';
import { isIP } from 'node:net';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { until } from '../concurrency/until.ts';
import { plural } from '../contract/amounts.ts';
import { stateDir } from '../contract/config.ts';
import { withoutBrackets } from '../contract/hosts.ts';
import type { Config } from '../contract/schemas.ts';
import { hostOf } from '../notices/allowedEndpoints.ts';
import { isInTime } from '../trust/certificates.ts';
import { ownFiles } from '../trust/serverCertificate.ts';
import { certificateFiles } from '../trust/trustDirectory.ts';
import { examineCa, examinePair, judgeDates, readCertificates } from './certificates.ts';
import { briefly, messageOf, type Patient, type Report } from './finding.ts';

export async function examineGateway({ config, env, signal }: Patient, report: Report): Promise<void> {
  const { gateway } = config;
  const what = "the gateway's certificate";
  if (gateway.certificate !== undefined && gateway.key !== undefined) {
    const renew = `Put a new one in ${gateway.certificate}, and restart the gateway.`;
    const found = await examinePair(
      {
        what,
        files: [gateway.certificate, gateway.key],
        settings: ['gateway.certificate', 'gateway.key'],
        renew,
      },
      report,
    );
    if (found) judgeNames(found, gateway.advertise ?? [], report);
  } else {
    const dir = stateDir(config, env);
    const files = ownFiles(dir);
    const renew = `Remove ${files.join(' and ')}, and restart the gateway: it creates new ones, and each client must run \`lxstow remote remove\` and \`add\`.`;
    if (files.every((file) => existsSync(file)))
      await examinePair({ what, files, settings: ['gateway.stateDir', 'gateway.stateDir'], renew }, report);
    else {
      await access(existing(dir), constants.W_OK).then(
        () => report('ok', `${what} will be created in ${dir} at the first start`),
        () =>
          report(
            'problem',
            `${what} cannot be made: this user may not write to ${dir}`,
            `mkdir -p ${dir} && chown USER ${dir}, or set gateway.stateDir.`,
          ),
      );
    }
  }
  if (gateway.trustCa !== undefined) {
    const renew = 'Make a new CA, and set gateway.trustCa to both until every client has a new certificate.';
    await examineCa("the clients' CA", { file: gateway.trustCa, key: 'gateway.trustCa', renew }, report);
  }
  if (gateway.trustDir !== undefined) await examineTrustDir(gateway.trustDir, report);
  await examineEndpoints(config.notify, signal, report);
}

/** Checks the webhooks without calling them, because a webhook would mistake the call for a notice. */
async function examineEndpoints({ endpoints }: Config['notify'], signal: AbortSignal, report: Report): Promise<void> {
  for (const url of endpoints.map((endpoint) => new URL(endpoint))) {
    try {
      await until(briefly(signal), lookup(hostOf(url)));
      report('ok', `notices go to ${url.origin}`);
    } catch (error) {
      report(
        'problem',
        `notices cannot reach ${url.origin}: ${messageOf(error)}`,
        "Check the name in notify.endpoints, and this host's DNS.",
      );
    }
  }
}

/** Warns about advertised addresses that the certificate does not name. They are in tokens, but only clients that pin the certificate can connect there. */
function judgeNames(certificate: X509Certificate, advertised: string[], report: Report): void {
  const wrong = advertised
    .map((address) => withoutBrackets(address.replace(/:\d+$/, '')))
    .filter((host) => !(isIP(host) ? certificate.checkIP(host) : certificate.checkHost(host)));
  if (wrong.length > 0)
    report(
      'warning',
      `the gateway's certificate does not name ${wrong.join(', ')} of gateway.advertise`,
      `Create one with these names; otherwise, clients must pin the certificate, as \`lxstow remote add\` with a token does.`,
    );
}

async function examineTrustDir(dir: string, report: Report): Promise<void> {
  let names: string[];
  try {
    names = await certificateFiles(dir);
  } catch (error) {
    report(
      'problem',
      `gateway.trustDir: ${(error as Error).message}`,
      `mkdir -p ${dir}, and let ${hostname()}'s gateway user read it; or remove gateway.trustDir.`,
    );
    return;
  }
  if (names.length === 0) return report('ok', `no client certificates in ${dir}; \`lxstow trust\` is the other way`);
  let valid = 0;
  for (const name of names) {
    const certificates = (await readCertificates(join(dir, name), 'gateway.trustDir', report)) ?? [];
    for (const certificate of certificates) {
      if (isInTime(certificate)) valid += 1;
      else
        judgeDates(
          `${name} in gateway.trustDir`,
          certificate,
          `Remove ${join(dir, name)}, or put the client's new certificate there.`,
          report,
        );
    }
  }
  if (valid > 0) report('ok', `${plural(valid, 'valid client certificate')} in ${dir}`);
  else
    report(
      'warning',
      `${dir} has no valid client certificate`,
      '`lxstow trust token NAME` makes a client trusted without it.',
    );
}

function existing(path: string): string {
  return existsSync(path) || dirname(path) === path ? path : existing(dirname(path));
}
