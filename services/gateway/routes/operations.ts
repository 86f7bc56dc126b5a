/** Operations: listed, shown, waited for. */
import { type Request, Router } from 'express';
import { LxstowError } from '../../errors.ts';
import { mayTouch } from '../access.ts';
import type { GatewayParts } from '../app.ts';
import { cancelOperation, missingOperation } from '../operations.ts';
import { clientOf, flag, parameter, query } from '../requests.ts';
import { operationPath, sync, toLxd } from '../respond.ts';

const longestWaitMs = 2 ** 31 - 1;

export function operationRoutes(parts: GatewayParts): Router {
  const { operations, feed, stop } = parts;
  const router = Router();
  const idOf = (request: Request) => parameter(request, 'id', 'names.json#/$defs/uuid');

  router.get('/', async (request, response) => {
    const project = query(request, 'project', 'names.json#/$defs/projectName') ?? 'default';
    const all = flag(request, 'all-projects') ?? false;
    const full = query(request, 'recursion') === '1';
    const client = clientOf(request);
    const found = (await operations.list()).filter((operation) =>
      all ? mayTouch(client, operation.project) : operation.project === project,
    );
    const byStatus = Object.groupBy(found, ({ status }) => status.toLowerCase());
    const shown = Object.entries(byStatus).map(([status, each = []]) => [
      status,
      each.map((one) => (full ? toLxd(one) : operationPath(one.id))),
    ]);
    sync(response, Object.fromEntries(shown));
  });

  router.get('/:id', async (request, response) => {
    const id = idOf(request);
    const found = await operations.find(id);
    if (!found) throw missingOperation(id);
    sync(response, toLxd(found.operation));
  });

  router.delete('/:id', async (request, response) => {
    const id = idOf(request);
    await cancelOperation(parts, id);
    sync(response);
  });

  router.get('/:id/wait', async (request, response) => {
    const id = idOf(request);
    const seconds = Number(query(request, 'timeout') ?? -1);
    if (!Number.isFinite(seconds)) throw new LxstowError('bad-request', '?timeout= is not a number of seconds');
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    const over = AbortSignal.timeout(seconds < 0 ? longestWaitMs : Math.min(seconds * 1000, longestWaitMs));
    const found = await feed.untilFinal(id, AbortSignal.any([over, gone.signal, stop]));
    if (!found) throw missingOperation(id);
    sync(response, toLxd(found));
  });

  return router;
}
