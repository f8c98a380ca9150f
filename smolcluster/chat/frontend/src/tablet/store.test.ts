import { expect, it } from "vitest";
import { Kept, NoRoom } from "./store";

/** A browser's database that takes what is put, and ends so. */
function base(ends: (transaction: IDBTransaction) => void): IDBDatabase {
  const transaction = { error: new DOMException("", "QuotaExceededError") } as unknown as IDBTransaction;
  const pieces = { transaction, put: () => queueMicrotask(() => ends(transaction)) };
  Object.assign(transaction, { objectStore: () => pieces });
  return { transaction: () => transaction } as unknown as IDBDatabase;
}

it("keeps a piece once the browser has written it", async () => {
  const store = new Kept(base((transaction) => transaction.oncomplete!(new Event("complete"))));
  await expect(store.put("hash", "path", 0, new Uint8Array(4))).resolves.toBeUndefined();
});

it("says so where there is no room, though the piece was taken", async () => {
  const store = new Kept(base((transaction) => transaction.onabort!(new Event("abort"))));
  const put = store.put("hash", "path", 0, new Uint8Array(4));
  await expect(put).rejects.toThrow(NoRoom);
  await expect(put).rejects.toThrow("does not keep the layers (QuotaExceededError): make room on the device");
});
