import { createRoot } from "react-dom/client";
import { browserStorage } from "../state/storage";
import { loadTheme, setTheme } from "../state/theme";
import "../styles/colours.css";
import "../styles/base.css";
import { Dashboard } from "./Dashboard";
import { Board } from "./live/board";
import "./styles/dashboard.css";
import "./styles/picture.css";
import "./styles/charts.css";
import "./styles/logs.css";

const storage = browserStorage();
// Before anything is drawn, so that nothing flashes.
setTheme(storage, loadTheme(storage));
const board = new Board();
board.start();
createRoot(document.getElementById("page")!).render(<Dashboard board={board} storage={storage} />);
