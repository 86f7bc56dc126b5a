/** Operations: listed, shown, waited for. */
import { type Request, Router } from 'express';
import { LxstowError } from '../../errors.ts';
import { isAdmin, mayTouch } from '../access.ts';
import type { GatewayParts } from '../app.ts';
import { cancelOperation, missingOperation } from '../operations.ts';
import { clientOf, flag, parameter, query } from '../requests.ts';
import { operationPath, sync, toLxd } from '../respond.ts';
import { tokenOperation } from '../tokenOperation.ts';

const longestWaitMs = 2 ** 31 - 1;

export function operationRoutes(parts: GatewayParts): Router {
  const { operations, feed, trustStore, stop } = parts;
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
    const shown: Record<string, unknown[]> = Object.fromEntries(
      Object.entries(byStatus).map(([status, each = []]) => [
        status,
        each.map((one) => (full ? toLxd(one) : operationPath(one.id))),
      ]),
    );
    // In LXD too, a token runs in the default project.
    if (isAdmin(client) && (all || project === 'default')) {
      const tokens = await trustStore.tokens();
      if (tokens.length > 0)
        shown.running = [
          ...(shown.running ?? []),
          ...tokens.map((token) => (full ? tokenOperation(token) : operationPath(token.id))),
        ];
    }
    sync(response, shown);
  });

  router.get('/:id', async (request, response) => {
    const id = idOf(request);
    const found = await operations.find(id);
    if (found) return sync(response, toLxd(found.operation));
    const token = isAdmin(clientOf(request)) ? await trustStore.token(id) : undefined;
    if (!token) throw missingOperation(id);
    sync(response, tokenOperation(token));
  });

  router.delete('/:id', async (request, response) => {
    const id = idOf(request);
    const isToken = isAdmin(clientOf(request)) && (await trustStore.removeToken(id));
    if (!isToken) await cancelOperation(parts, id);
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
