/** What a rule would keep of a project's backups, and having the rest deleted: one operation for each instance. */
import { Router } from 'express';
import type { Summary } from '../../backups/catalog.ts';
import { knownRemote } from '../../contract/config.ts';
import { LxstowError } from '../../contract/errors.ts';
import { type Address, check, type KeepRule, type Operation, type PruneVerdict } from '../../contract/schemas.ts';
import { checkRule, judge } from '../../retention/keep.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { bodyOf, ended, endpointOf, placeOf, requestorOf, traceOfRequest } from '../http/requests.ts';
import { sync, toLxd } from '../http/respond.ts';

export function pruneRoutes(parts: GatewayParts): Router {
  const { config, catalog, nats, submitter } = parts;
  const router = Router();

  router.post('/', async (request, response) => {
    const { keep, instances, dry_run, notifyEndpoint } = check('http-prune.json', bodyOf(request), 'body');
    checkRule(keep);
    const place = placeOf(request, undefined, config.gateway.defaultRemote);
    const told = endpointOf(request, config.notify, notifyEndpoint);
    const unreadable = new Set<string>();
    const found = await catalog.list(place, ended(response), ({ instance }) => void unreadable.add(instance));
    const groups = Map.groupBy(found, ({ address }) => address.instance);
    if (found.length === 0) knownRemote(place.remote, Object.keys(config.remotes));
    const missing = instances?.find((each) => !groups.has(each) && !unreadable.has(each));
    if (missing !== undefined) throw new LxstowError('not-found', `instance ${missing} has no backups`);
    const verdicts = [...groups]
      .filter(([instance]) => instances?.includes(instance) ?? true)
      .map(([instance, backups]) => ({
        instance,
        verdicts: unreadable.has(instance) ? allStay(backups) : judgeAll(backups, keep),
      }));
    if (dry_run)
      return sync(
        response,
        verdicts.flatMap((each) => each.verdicts),
      );

    nats.assertConnected();
    knownRemote(place.remote, Object.keys(config.remotes));
    const begun: Operation[] = [];
    for (const { instance, verdicts: of } of verdicts) {
      if (!of.some(({ action }) => action === 'delete')) continue;
      const address: Address = { ...place, instance };
      const job = { kind: 'prune' as const, address, body: { keep, ...told } };
      try {
        begun.push(await submitter.submit(submitter.newId(), job, requestorOf(request), traceOfRequest(request)));
      } catch (error) {
        if (!(error instanceof LxstowError) || begun.length === 0) throw error;
        const far = `${begun.length} instances are being pruned, ${instance} and those behind it are not`;
        throw new LxstowError(error.code, `${error.message}; ${far}: ask again`, { cause: error });
      }
    }
    sync(response, begun.map(toLxd));
  });

  return router;
}

function judgeAll(backups: Summary[], keep: KeepRule): PruneVerdict[] {
  const candidates = backups.map(({ address, backup }) => ({ ...backup, address }));
  return judge(candidates, keep).map(({ backup, action, reasons }) => shown(backup, action, reasons));
}

/** Of an instance with a manifest that cannot be read nothing is deleted. */
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
