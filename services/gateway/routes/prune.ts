/** The route that shows what a rule would keep of a project's backups, or deletes the rest, with one operation for each instance. */

import type { Request, Response } from 'express';
import type { Summary } from '../../backups/summaries.ts';
import { knownRemote } from '../../contract/config.ts';
import { LxstowError } from '../../contract/errors.ts';
import {
  type Address,
  check,
  type InstanceKeep,
  type KeepRule,
  type Operation,
  type PruneJob,
  type PruneVerdict,
} from '../../contract/schemas.ts';
import { judgeFor, readKeys } from '../../retention/instanceKeys.ts';
import { checkRule } from '../../retention/keep.ts';
import { noteForAudit } from '../access/audit.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { bodyOf, ended, endpointOf, placeOf, requestorOf, traceOfRequest } from '../http/requests.ts';
import { sync, warn } from '../http/respond.ts';
import type { RouteGroup } from '../http/route.ts';
import { instanceKeeps } from '../views/instanceKeeps.ts';
import { shownOperation } from '../views/operationView.ts';

const mostWarnings = 20;

export const pruneRoutes: RouteGroup = {
  path: '/1.0/prune',
  routes: [{ method: 'POST', path: '/', least: 'operator', projects: 'named', run: prune }],
};

async function prune(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { config, catalog, nats } = parts;
  const { keep, instances, dry_run, notifyEndpoint } = check('http-prune.json', bodyOf(request), 'body');
  checkRule(keep);
  noteForAudit(response, { keep, instances, dry_run });
  const place = placeOf(request, undefined, config.gateway.defaultRemote);
  const webhook = endpointOf(request, config.notify, notifyEndpoint);
  const unreadable = new Set<string>();
  const found = await catalog.list(place, ended(response), ({ instance }) => void unreadable.add(instance));
  const groups = Map.groupBy(found, ({ address }) => address.instance);
  if (found.length === 0) knownRemote(place.remote, Object.keys(config.remotes));
  const missing = instances?.find((each) => !groups.has(each) && !unreadable.has(each));
  if (missing !== undefined) throw new LxstowError('not-found', `instance ${missing} has no backups`);
  const keysOf = await instanceKeeps(parts);
  const judged = [...groups]
    .filter(([instance]) => instances?.includes(instance) ?? true)
    .map(([instance, backups]) => ({
      instance,
      verdicts: unreadable.has(instance) ? allStay(backups) : judgeAll(backups, keep, keysOf({ ...place, instance })),
    }));
  if (dry_run) {
    const faults = judged.flatMap(({ instance }) =>
      readKeys(keysOf({ ...place, instance }) ?? {}).faults.map((fault) => `${instance}: ${fault}`),
    );
    // The size of an answer's header is limited.
    for (const fault of faults.slice(0, mostWarnings)) warn(response, fault);
    const verdicts = judged.flatMap((each) => each.verdicts);
    return sync(response, verdicts);
  }
  nats.assertConnected();
  knownRemote(place.remote, Object.keys(config.remotes));
  const addresses = judged
    .filter(({ verdicts }) => verdicts.some(({ action }) => action === 'delete'))
    .map(({ instance }): Address => ({ ...place, instance }));
  const begun = await begin(parts, request, addresses, { keep, ...webhook });
  noteForAudit(response, { operations: begun.map(({ id }) => id) });
  sync(response, begun.map(shownOperation));
}

/** Queues a prune for each instance. If one cannot be queued, the error says how many have been. */
async function begin(
  { submitter }: GatewayParts,
  request: Request,
  addresses: Address[],
  body: PruneJob,
): Promise<Operation[]> {
  const begun: Operation[] = [];
  for (const address of addresses) {
    const job = { kind: 'prune' as const, address, body };
    try {
      begun.push(await submitter.submit(submitter.newId(), job, requestorOf(request), traceOfRequest(request)));
    } catch (error) {
      if (!(error instanceof LxstowError) || begun.length === 0) throw error;
      const far = `${begun.length} instances are being pruned, ${address.instance} and the instances after it are not`;
      throw new LxstowError(error.code, `${error.message}; ${far}: send the request again`, { cause: error });
    }
  }
  return begun;
}

function judgeAll(backups: Summary[], keep: KeepRule, keys: InstanceKeep | undefined): PruneVerdict[] {
  const candidates = backups.map(({ address, backup }) => ({ ...backup, address }));
  return judgeFor(candidates, keep, keys, new Date()).map(({ backup, action, reasons }) =>
    shown(backup, action, reasons),
  );
}

/** The answer for an instance with a manifest that cannot be read: nothing is deleted. */
function allStay(backups: Summary[]): PruneVerdict[] {
  return backups.map(({ address, backup }) =>
    shown({ ...backup, address }, 'keep', ['a manifest of this instance cannot be read']),
  );
}

function shown(
  { address, name, created, size }: Summary['backup'] & Pick<Summary, 'address'>,
  action: 'keep' | 'delete',
  reasons: string[],
): PruneVerdict {
  const { remote: location, project, instance } = address;
  return { location, project, instance, backup: name, created, size, action, reasons };
}
